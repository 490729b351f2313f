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

/* How a thread's frames are reached. */
enum tm_frame_kind {
    TM_FRAMES_OBJECT = 0, /* up to 3.10: a list of PyFrameObject */
    TM_FRAMES_CFRAME = 1, /* 3.11 and 3.12: tstate->cframe->current_frame */
    TM_FRAMES_DIRECT = 2, /* 3.13 on: tstate->current_frame */
};

/* The layout in force; tm_layout_choose has succeeded. */
extern struct tm_layout tm_layout;
extern enum tm_frame_kind tm_layout_frame_kind;

/* Chooses by version: _Py_DebugOffsets, else `dwarf` (may be NULL), else the table. False with a
 * message where this version is unknown. */
bool tm_layout_choose(const struct tm_layout *dwarf, char *message, size_t message_bytes);

/* Compares what the layout says of every thread's frames with what the C API says of them. The
 * caller holds the GIL, so that no other thread's frames move. */
bool tm_layout_check(char *message, size_t message_bytes);

const char *tm_layout_source_name(void);
