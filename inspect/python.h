// SPDX-License-Identifier: MIT
/* Which module of a process is the Python interpreter, and which Python it is. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "inspect/module.h"

enum tm_python_kind {
    TM_PYTHON_NONE = 0, /* no interpreter is mapped */
    TM_PYTHON_CPYTHON = 1,
    TM_PYTHON_PYPY = 2,
};

#define TM_PYTHON_VERSION_BYTES 32
struct tm_python {
    enum tm_python_kind kind;
    struct tm_module *module; /* borrowed from the modules; NULL for NONE */
    uint32_t version_hex;     /* PY_VERSION_HEX; its low 16 bits are 0 where only X.Y is known */
    char version[TM_PYTHON_VERSION_BYTES]; /* "3.11.7"; "" where it is not known */
    bool has_allocator_api;    /* exports PyMem_SetAllocator: any 3.4 on, patched 2.7 and 3.3 */
    bool has_object_functions; /* exports PyObject_Malloc, PyObject_Realloc, PyObject_Free */
};

/* Looks through the modules (opening them as needed); never fails: kind says what was found. */
void tm_python_find(tm_modules *modules, struct tm_python *ret);
/* "3.11.7", "3.14.0rc2", "2.7.18+" to PY_VERSION_HEX; 0 where it is not a version. */
uint32_t tm_python_version_hex(const char *version);
/* And back, as sys.version begins. */
void tm_python_format_version(uint32_t hex, char ret[TM_PYTHON_VERSION_BYTES]);
