// SPDX-License-Identifier: MIT
/* The filters on what is traced, as Python sees them: the list, and its way to the engine. GIL. */
#pragma once

#include "payload/pymodule/pyfuncs.h"

PyObj *tm_livefilters_py_add(PyObj *self, PyObj *filter); /* (include, pattern, lineno, traceback) */
PyObj *tm_livefilters_py_clear(PyObj *self, PyObj *unused);
PyObj *tm_livefilters_py_get(PyObj *self, PyObj *unused); /* list of such tuples */
void tm_livefilters_clear(void);
