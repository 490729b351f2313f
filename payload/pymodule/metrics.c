// SPDX-License-Identifier: MIT
#include "payload/pymodule/metrics.h"

PyObj *tm_metric_arena_size(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    return tm_pyf.PyLong_FromLongLong(0);
}

PyObj *tm_metric_unicode_interned(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    return tm_py_none();
}
