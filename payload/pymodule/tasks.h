// SPDX-License-Identifier: MIT
/*
 * The tasks of the Python module: Python callables that are called when the
 * traced memory has moved or a delay has passed.
 *
 * The call is made by the main thread, by a pending call at its next bytecode
 * boundary; where it does not come by within 100 ms, by a thread of our own,
 * which keeps the time as well. Whoever takes the GIL first does it. A call is
 * never made inside another.
 *
 * All functions: GIL.
 */
#pragma once

#include <stdbool.h>

#include "payload/pymodule/pyfuncs.h"

/* (task, delay_s or 0, threshold_bytes or 0, repeat or 0). Tracing is on. */
PyObj *tm_tasks_py_schedule(PyObj *self, PyObj *args);
/* (task, delay_s or 0, threshold_bytes or 0): new terms, centred anew, where it is scheduled */
PyObj *tm_tasks_py_change(PyObj *self, PyObj *args);
PyObj *tm_tasks_py_cancel(PyObj *self, PyObj *task);
PyObj *tm_tasks_py_is_scheduled(PyObj *self, PyObj *task);
PyObj *tm_tasks_py_list(PyObj *self, PyObj *unused);
PyObj *tm_tasks_py_cancel_all(PyObj *self, PyObj *unused);

void tm_tasks_cancel_all(void);
/* In a forked child: the parent's tasks and thread are not ours. Cheap where nothing forked. */
void tm_tasks_sync(void);
/* Ends the thread. True: nothing can call our code from a queue or a thread any more. */
bool tm_tasks_stop(void);
