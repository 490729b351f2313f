// SPDX-License-Identifier: MIT
/* Sums by arbitrary 64-bit keys: a small hash map of groups. Not thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyzer/core/grouping.h"

struct tm_buckets {
    struct tm_group *items; /* in order of first sight */
    size_t n_items, capacity;
    uint32_t *slots; /* index + 1; 0: free */
    size_t n_slots;  /* a power of two; 0: none yet */
    size_t last;     /* the item that was added to last; keys come in runs */
};

/* A zeroed object is empty. False: no memory. */
bool tm_buckets_add(struct tm_buckets *buckets, uint64_t id, uint64_t bytes, uint64_t count);
bool tm_buckets_merge(struct tm_buckets *to, const struct tm_buckets *from);
/* The items, unsorted, freed with free(); never NULL unless memory is short. */
struct tm_group *tm_buckets_steal(struct tm_buckets *buckets, size_t *ret_n_items);
void tm_buckets_done(struct tm_buckets *buckets);
