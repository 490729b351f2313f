// SPDX-License-Identifier: MIT
#include "payload/pymodule/metrics.h"

#include "payload/arena.h"

PyObj *tm_metric_arena_size(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    /* A free-threaded build's mimalloc takes its memory by itself. */
    if (!tm_arena_is_supported() || tm_py.free_threaded)
        return tm_py_raise(tm_pyf.not_implemented_error, "this Python has no hook for arenas");
    return tm_pyf.PyLong_FromUnsignedLongLong(tm_arena_bytes());
}
