// SPDX-License-Identifier: MIT
/* Differences between two groupings: the API's StatsDiff. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyzer/core/grouping.h"

struct tm_change {
    int64_t size_diff;
    uint64_t size;
    int64_t count_diff;
    uint64_t count;
    uint64_t id;
};

struct tm_diff {
    struct tm_change *rows; /* owned; sorted as StatsDiff.sort does, largest first */
    size_t n_rows;
    size_t n_groups;        /* how many there are in all; n_rows of them are in `rows` */
    struct tm_change total; /* over all groups; id unused */
    struct tm_change rest;  /* over those that are not in `rows` */
    bool has_old;
};

/* Compares; `old` may be NULL: all differences are 0 then. Both must be of one model and grouped
 * alike. At most `limit` rows are kept, and memory is used for no more. False: no memory. */
bool tm_diff_make(const struct tm_model *model, const struct tm_groups *old,
                  const struct tm_groups *new, size_t limit, struct tm_diff *ret);
void tm_diff_done(struct tm_diff *diff);
