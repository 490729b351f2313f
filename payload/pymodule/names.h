// SPDX-License-Identifier: MIT
/*
 * Python objects for strings, frames and tracebacks that are known by id, each
 * made once: equal tracebacks of one result are the same object. Where the ids
 * come from (the live tables or a snapshot) is the business of struct tm_names.
 * GIL.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "format/tms_reader.h"
#include "payload/pymodule/pyfuncs.h"

struct tm_names {
    uint32_t n_strings, n_sites, n_nodes;
    const void *source;
    struct tms_str (*string)(const void *source, uint32_t id);
    struct tms_site (*site)(const void *source, uint32_t id); /* TMS_NO_ID: unknown file */
    struct tms_node (*node)(const void *source, uint32_t id);
};

struct tm_pynames {
    struct tm_names names;
    PyObj **strings, **frames, **tracebacks; /* by id; NULL: not made yet */
    PyObj *equals;                           /* {traceback: traceback} */
};

/* False with a Python exception. */
bool tm_pynames_init(struct tm_pynames *p, const struct tm_names *names);
/* Accepts a half-made one. */
void tm_pynames_done(struct tm_pynames *p);

/* All borrowed until tm_pynames_done; NULL with an exception. */
PyObj *tm_pynames_string(struct tm_pynames *p, uint32_t id);      /* str or None */
PyObj *tm_pynames_frame(struct tm_pynames *p, uint32_t site);     /* (filename, lineno) */
PyObj *tm_pynames_traceback(struct tm_pynames *p, uint32_t node); /* tuple of frames */

/* Sets traces[addr] = (size, traceback). */
bool tm_pynames_add_trace(struct tm_pynames *p, PyObj *traces, uint64_t addr, uint64_t size_bytes,
                          uint32_t node);
/* Adds to stats[filename][lineno]. TMS_NO_ID: the empty traceback, None/None. */
bool tm_pynames_add_stat(struct tm_pynames *p, PyObj *stats, uint32_t site, uint64_t bytes,
                         uint64_t blocks);

/* New references; NULL with an exception. They steal nothing. */
PyObj *tm_py_text(const char *bytes, size_t n_bytes);
PyObj *tm_py_pair(uint64_t a, uint64_t b); /* (int, int) */
/* (a, b); takes both references over, also on failure; NULLs are passed on as failure. */
PyObj *tm_py_tuple2(PyObj *a, PyObj *b);
