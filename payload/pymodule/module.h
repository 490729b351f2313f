// SPDX-License-Identifier: MIT
/*
 * The C half of the Python module: `_pytracemalloc`, which nobody but
 * pytracemalloc.py calls. It comes into a Python in one of two ways: imported as
 * an extension module (PyInit__pytracemalloc), or made by the agent of an
 * attached process (session.c).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "payload/pymodule/pyfuncs.h"

__attribute__((visibility("default"))) PyObj *PyInit__pytracemalloc(void);
__attribute__((visibility("default"))) void init_pytracemalloc(void); /* 2.7 */

/* A new module object; NULL with an exception. GIL, main interpreter. */
PyObj *tm_module_new(void);

/* Loaded as an extension module: Python never unloads it, and a detach leaves the API working. */
extern bool tm_module_imported;
/* After a detach objects of ours may live on; they find nothing traced and cannot enable. */
extern bool tm_module_detached;
