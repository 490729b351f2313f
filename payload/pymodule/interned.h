// SPDX-License-Identifier: MIT
/* The interpreter's dictionary of interned strings, which no function gives away. GIL. */
#pragma once

#include "payload/pymodule/pyfuncs.h"

/* (size, length): sys.getsizeof() of the dictionary and its number of strings; None where it is not
 * found. */
PyObj *tm_interned_py_get(PyObj *self, PyObj *unused);
