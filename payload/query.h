// SPDX-License-Identifier: MIT
/*
 * Questions about the live store, and its clearing. The caller holds the GIL and
 * tracing is on (tm_tracer_is_enabled); what is returned is a copy, so that the
 * caller may let the program run while he works on it. Ids of tracebacks stay
 * valid while the caller has the store (tm_tracer_hold).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/state.h"

struct tm_query_trace {
    uint64_t addr;
    uint64_t size_bytes;
    uint32_t node;
    uint32_t domain;
};

struct tm_query_traces {
    struct tm_query_trace *items; /* ascending by address */
    size_t count, capacity;
};

/* False: no such trace. */
bool tm_query_trace(uint64_t addr, struct tm_query_trace *ret);
/* All of them, of one moment. False where memory is short. */
bool tm_query_traces(struct tm_query_traces *ret);
void tm_query_traces_free(struct tm_query_traces *traces);
/* Live bytes and blocks of a site, both lanes together. */
void tm_query_site(uint32_t site, uint64_t *ret_bytes, uint64_t *ret_blocks);
/* Forgets all traces and counters; tracing goes on. */
void tm_query_clear(void);
