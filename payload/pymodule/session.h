// SPDX-License-Identifier: MIT
/*
 * `import pytracemalloc` in an attached process: between START and detach a
 * finder for our two names stands first on sys.meta_path. Nothing else of ours
 * is in the program until it imports the module. Agent thread, GIL.
 */
#pragma once

#include <stdbool.h>

#include "payload/pymodule/pyfuncs.h"

/* Called by the agent, see payload/agent.h. Makes the module importable. False: it cannot be
 * (stderr stays silent); tracing goes on. */
bool tm_session_begin(void);
/* Takes it away, ends the tasks. True: nothing in the program can call our code any more. Lets the
 * GIL go for moments. Idempotent. */
bool tm_session_end(void);

/* The finder's and loader's functions, part of the C module. */
PyObj *tm_session_py_find_spec(PyObj *self, PyObj *args);
PyObj *tm_session_py_create_module(PyObj *self, PyObj *spec);
PyObj *tm_session_py_exec_module(PyObj *self, PyObj *module);
PyObj *tm_session_py_find_module(PyObj *self, PyObj *args); /* before 3.4, as is the next */
PyObj *tm_session_py_load_module(PyObj *self, PyObj *args);
PyObj *tm_session_py_get_source(PyObj *self, PyObj *name);
PyObj *tm_session_py_get_code(PyObj *self, PyObj *name);
PyObj *tm_session_py_is_package(PyObj *self, PyObj *name);
/* at_session_end(callable): called when the session ends. */
PyObj *tm_session_py_at_end(PyObj *self, PyObj *callable);
