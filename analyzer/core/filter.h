// SPDX-License-Identifier: MIT
/*
 * Filters of the API: which traces count, by file name, line and frames.
 * A filter's answer is "keep": an exclude filter says the inverse of its match.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyzer/core/model.h"

#define TM_FILTER_JOKERS_MAX 100u

enum tm_filter_flags {
    TM_FILTER_EXCLUDE = 0,
    TM_FILTER_INCLUDE = 1u << 0,
    TM_FILTER_TRACEBACK = 1u << 1, /* every frame is looked at, not only the most recent one */
};

struct tm_filter {
    char *pattern; /* normalized; NUL-terminated */
    size_t pattern_bytes;
    int32_t line; /* < 1: any */
    unsigned flags;
};

enum tm_filter_status {
    TM_FILTER_OK = 0,
    TM_FILTER_TOO_MANY_JOKERS,
    TM_FILTER_NO_MEMORY,
};

/* A trailing .pyc or .pyo of the pattern becomes .py; runs of * collapse. */
enum tm_filter_status tm_filter_init(struct tm_filter *filter, unsigned flags, const char *pattern,
                                     size_t pattern_bytes, int32_t line);
void tm_filter_done(struct tm_filter *filter);

/* Whether the pattern matches the name, whatever `flags` says. name.bytes NULL: unknown, no match.
 * Linear in the name for each joker. */
bool tm_filter_pattern_matches(const struct tm_filter *filter, struct tms_str name);
/* Filter.match: keep this file and line? */
bool tm_filter_keeps(const struct tm_filter *filter, struct tms_str name, int32_t line);

/* Sets the image's keep_node and keep_stat to what all filters together say; without filters they
 * go away. False: no memory. */
bool tm_filters_apply(const struct tm_filter *filters, size_t n_filters, struct tm_image *image);
