// SPDX-License-Identifier: MIT
/*
 * What Python 2.7 has under other names, or in another form: its str are bytes,
 * its int and long are two types, and modules are not made from a definition.
 *
 * Text of ours is UTF-8 in which a byte that was none is U+DC80 to U+DCFF
 * (payload/code.c). In 2.7 it becomes a str of the bytes that they were, as file
 * names are there. From Python both str and unicode are taken.
 */
#pragma once

#include "payload/pymodule/pyfuncs.h"

/* The function or variable that serves as the C API's `name` in a 2.7. NULL: it is exported under
 * this name. */
void *tm_pyfuncs27_find(const char *name);
/* False: an exported function that these need is missing. */
bool tm_pyfuncs27_load(char *message, size_t message_bytes);
