// SPDX-License-Identifier: MIT
/*
 * File name patterns of filters, as pytracemalloc.Filter defines them: a joker
 * `*` matches anything, everything else itself; .pyc and .pyo count as .py.
 * Used where filters are applied: in the target and offline. libc only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define TM_PATTERN_JOKERS_MAX 100u

/* Writes the pattern in its normal form (runs of * collapsed, .pyc and .pyo as .py) to ret, which
 * has room for n_bytes, and returns its length; SIZE_MAX: more than TM_PATTERN_JOKERS_MAX jokers.
 */
size_t tm_pattern_normalize(const char *pattern, size_t n_bytes, char *ret);

/* Whether a pattern in normal form matches a file name. Linear in the name. */
bool tm_pattern_matches(const char *pattern, size_t pattern_bytes, const char *name,
                        size_t name_bytes);
