// SPDX-License-Identifier: MIT
/* Names of snapshot files: $pid, $timestamp and $counter in a template. Pure functions. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_template_values {
    uint64_t pid;
    uint64_t counter;     /* at least four digits: 0001 */
    uint64_t real_ns;     /* CLOCK_REALTIME; as 2013-10-03-11:34:39 */
    int64_t utc_offset_s; /* added to it */
};

/* Unknown variables stay as they are. False where the result does not fit. */
bool tm_template_expand(const char *template, const struct tm_template_values *values, char *ret,
                        size_t ret_bytes);
/* Whether the template has the variable, e.g. "$counter". */
bool tm_template_has(const char *template, const char *variable);
