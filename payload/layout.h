// SPDX-License-Identifier: MIT
/*
 * Which struct offsets are in force for the interpreter in this process, and
 * the check that they are true. The only place in the payload that knows a
 * CPython version's layout. GIL for everything but the getter.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "format/layout.h"

/* The layout in force; tm_layout_choose has succeeded. */
extern struct tm_layout tm_layout;
/* Row of payload/layout_table.h that has the same offsets; -1: none. */
extern int tm_layout_table_index;

/* Chooses by version: _Py_DebugOffsets, else `dwarf` (may be NULL), else the table. False with a
 * message where this version is unknown. */
bool tm_layout_choose(const struct tm_layout *dwarf, char *message, size_t message_bytes);

/* Compares what the layout says of every thread's frames with what the C API says of them. The
 * caller holds the GIL, so that no other thread's frames move. */
bool tm_layout_check(char *message, size_t message_bytes);

/* Of 3.8 alone, where Py_AddPendingCall prints an error once the interpreter has begun to end: the
 * word that says so. NULL on other versions, and where it was not found. Reads only. */
const int *tm_layout_find_finishing(void);

const char *tm_layout_source_name(void);
