// SPDX-License-Identifier: MIT
/*
 * The passive reader: writes a snapshot from a process' memory or core without
 * running a line in it. It knows the payload's own store (format/state.h) and
 * the tables of the standard library's tracemalloc.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "inspect/target.h"

struct tm_extract_result {
    const char *origin; /* "tm" or "tracemalloc"; static */
    uint64_t traces, traced_bytes;
    uint64_t torn; /* entries that were not trusted, and are not in the file */
};

/* Writes to fd, an empty regular file open for writing; it stays the caller's. */
bool tm_extract(tm_target *target, int fd, struct tm_extract_result *ret, GError **error);
/* The same to a file that is complete or not there at all. */
bool tm_extract_to_file(tm_target *target, const char *path, struct tm_extract_result *ret,
                        GError **error);
