// SPDX-License-Identifier: MIT
/*
 * The filters on what is traced, as Python sees them. The engine has them in
 * force; here they can be read. Client of the agent and program change one list.
 * GIL.
 */
#pragma once

#include <stddef.h>

#include "payload/filter.h"
#include "payload/pymodule/pyfuncs.h"

PyObj *tm_livefilters_py_add(PyObj *self,
                             PyObj *filter); /* (include, pattern, lineno, traceback) */
PyObj *tm_livefilters_py_clear(PyObj *self, PyObj *unused);
PyObj *tm_livefilters_py_get(PyObj *self, PyObj *unused); /* list of such tuples */
void tm_livefilters_clear(void);
/* Called by the agent (payload/agent.h): these are in force by now. */
void tm_session_set_filters(const struct tm_filter_spec *specs, size_t n_specs);
