// SPDX-License-Identifier: MIT
/*
 * The live store as Python sees it: the C functions behind get_traces, get_trace,
 * get_stats and their kin. GIL. Each returns a new reference, or NULL with an
 * exception.
 */
#pragma once

#include "payload/pymodule/pyfuncs.h"

PyObj *tm_live_get_traces(PyObj *self, PyObj *unused);
PyObj *tm_live_get_stats(PyObj *self, PyObj *unused);
PyObj *tm_live_get_trace(PyObj *self, PyObj *address);
PyObj *tm_live_get_object_address(PyObj *self, PyObj *object);
PyObj *tm_live_get_object_trace(PyObj *self, PyObj *object);
PyObj *tm_live_get_traced_memory(PyObj *self, PyObj *unused); /* (size, max_size) */
PyObj *tm_live_get_own_memory(PyObj *self, PyObj *unused);    /* (size, free) */
PyObj *tm_live_get_process_memory(PyObj *self, PyObj *unused);
PyObj *tm_live_clear_traces(PyObj *self, PyObj *unused);
