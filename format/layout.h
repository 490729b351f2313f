// SPDX-License-Identifier: MIT
/*
 * Where the fields of CPython's private structs lie that no API gives.
 *
 * The same struct is filled from three sources: _Py_DebugOffsets (3.13 on, by
 * the payload), the DWARF of the interpreter in use (by tm-attach), and the
 * table per version in payload/layout.c. All offsets are in bytes from the
 * start of their struct; TM_NO_FIELD says that this version has no such field.
 */
#pragma once

#include <stdint.h>

#define TM_NO_FIELD ((int32_t)-1)

enum tm_layout_source {
    TM_LAYOUT_NONE = 0,
    TM_LAYOUT_TABLE = 1,
    TM_LAYOUT_DWARF = 2,
    TM_LAYOUT_DEBUG_OFFSETS = 3,
};

static inline const char *tm_layout_source_text(uint32_t source)
{
    switch (source) {
    case TM_LAYOUT_TABLE:
        return "table";
    case TM_LAYOUT_DWARF:
        return "dwarf";
    case TM_LAYOUT_DEBUG_OFFSETS:
        return "debug-offsets";
    default:
        return "none";
    }
}

struct tm_layout {
    uint32_t source;     /* enum tm_layout_source */
    uint32_t py_version; /* major << 8 | minor, e.g. 0x030b */
    /* PyThreadState */
    int32_t tstate_frame;         /* up to 3.10: struct _frame *frame */
    int32_t tstate_cframe;        /* 3.11 and 3.12: _PyCFrame *cframe (3.10 has one, unused here) */
    int32_t tstate_current_frame; /* 3.13 on: _PyInterpreterFrame *current_frame */
    int32_t tstate_interp;
    int32_t tstate_thread_id;
    int32_t tstate_next;
    /* _PyCFrame, 3.11 and 3.12 */
    int32_t cframe_current_frame;
    /* _PyInterpreterFrame, 3.11 on */
    int32_t iframe_code; /* f_code up to 3.12, f_executable from 3.13 (tagged from 3.14) */
    int32_t iframe_previous;
    int32_t iframe_instr; /* prev_instr up to 3.12, instr_ptr from 3.13 */
    int32_t iframe_owner; /* char */
    /* PyFrameObject, up to 3.10 */
    int32_t frame_back;
    int32_t frame_code;
    int32_t frame_lasti; /* int: bytes up to 3.9, code units in 3.10 */
    /* PyCodeObject */
    int32_t code_filename;
    int32_t code_name;
    int32_t code_qualname;       /* 3.11 on */
    int32_t code_firstlineno;    /* int */
    int32_t code_adaptive;       /* 3.11 on: first code unit inside the object */
    int32_t code_firsttraceable; /* 3.11 on: int, in code units */
    int32_t code_nbytes_size;    /* 3.11 on: ob_size, in code units */
    /* str objects (PEP 393) */
    int32_t ascii_length; /* PyASCIIObject.length */
    int32_t ascii_state;  /* PyASCIIObject.state, 32 bits of bit fields */
    int32_t ascii_size;   /* sizeof(PyASCIIObject): data of a compact ASCII str */
    int32_t compact_size; /* sizeof(PyCompactUnicodeObject): data of other compact strs */
    int32_t object_type;  /* PyObject.ob_type */
    int32_t reserved[4];
};

_Static_assert(sizeof(struct tm_layout) == 4 * 32, "struct tm_layout is part of the boot ABI");
