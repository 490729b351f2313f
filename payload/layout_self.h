// SPDX-License-Identifier: MIT
/*
 * The layout check of a free-threaded build. Elsewhere the GIL keeps the program's
 * threads still while their frames are compared with what the C API says
 * (payload/layout.c); here they run on. So the calling thread runs a line of
 * Python and its own frames are compared, from inside of them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "payload/pyapi.h"

/* True where the frames of this thread state are those of a frame object (borrowed). */
typedef bool tm_layout_compare(uint64_t tstate, tm_py_object *top);

/* The thread must be attached to the interpreter. */
bool tm_layout_check_self(tm_layout_compare *compare_stack);
