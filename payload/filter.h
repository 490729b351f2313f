// SPDX-License-Identifier: MIT
/*
 * Filters in the payload: decided once for each interned site and traceback, so
 * that a filter costs the hot path one flag. The semantics are those of
 * pytracemalloc.Filter (shared/spec/behaviours.md), patterns are format/pattern.h's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/state.h"

#define TM_FILTERS_MAX 1024u

enum tm_filters_flags {
    TM_FILTERS_INCLUDE = 1u << 0,   /* else: exclude */
    TM_FILTERS_TRACEBACK = 1u << 1, /* looks at every frame, not only at the most recent one */
};

struct tm_filter_spec {
    const char *pattern; /* UTF-8 (surrogatepass), need not be NUL-terminated */
    size_t n_bytes;
    int32_t line;   /* < 1: any */
    uint32_t flags; /* enum tm_filters_flags */
};

/* Replaces all filters; they apply to blocks that are allocated from now on, and survive a disable.
 * The lanes must stand still (tm_tracer_set_filters sees to that). 0; -EINVAL: too many jokers in
 * a pattern; -E2BIG: more than TM_FILTERS_MAX; -ENOMEM. On failure the old ones stay. */
int tm_filter_replace(const struct tm_filter_spec *specs, size_t n_specs);

/* Decides on all sites and tracebacks anew, e.g. because the store has just been set up. */
void tm_filter_apply_all(void);

/* Flags of a site (enum tm_site_flags) or traceback (enum tm_node_flags) that is being interned;
 * a node's parent and site are. tm_intern_lock. */
uint32_t tm_filter_site_flags(const struct tm_site *site);
uint16_t tm_filter_node_flags(const struct tm_node *node);
/* False: nothing is ever excluded, the flags need no look. */
bool tm_filter_any(void);
