// SPDX-License-Identifier: MIT
/* Where the standard library's tracemalloc keeps its tables in a process, and how they are built.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "inspect/debug_info.h"
#include "inspect/python.h"
#include "inspect/target.h"

struct tm_tracemalloc_layout {
    char python[TM_PYTHON_VERSION_BYTES]; /* "3.11.7"; "": not known */
    int32_t traceback_limit;
    uint64_t traces_addr;            /* of the pointer to the table of Python's own traces */
    uint64_t domains_addr;           /* of the pointer to the table of tables; 0: 3.8 has none */
    uint64_t traced_addr, peak_addr; /* size_t */
    /* _Py_hashtable_t and _Py_hashtable_entry_t */
    bool inline_data; /* 3.8: key and data follow the entry's head */
    uint64_t entry_bytes;
    struct tm_field table_buckets, table_entries, table_array, table_key_bytes;
    struct tm_field entry_key, entry_value; /* 3.9 on */
    /* trace_t, traceback_t, frame_t */
    uint64_t frame_bytes;
    struct tm_field trace_size, trace_traceback;
    struct tm_field traceback_frames_count, traceback_frames;
    struct tm_field frame_filename, frame_line;
    /* str */
    uint64_t ascii_bytes, compact_bytes;
    struct tm_field str_length, str_kind, str_compact, str_ascii;
};

/* False and *error where there is no CPython, where it has no debug information, or where its
 * tracemalloc is not tracing. */
bool tm_tracemalloc_layout_find(tm_target *target, struct tm_tracemalloc_layout *ret,
                                GError **error);
