// SPDX-License-Identifier: MIT
/*
 * A hash index over the ids of some vec: open addressing, ids only. The owner
 * compares elements. Guarded by the owner's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct tm_index_slot {
    uint32_t hash;
    uint32_t id_plus_1; /* 0: empty */
};

struct tm_index {
    struct tm_index_slot *slots;
    uint32_t capacity; /* a power of two; 0 before the first use */
    uint32_t used;
};

void tm_index_done(struct tm_index *index);
/* Room for one more. False where memory is short. */
bool tm_index_reserve(struct tm_index *index);
/* Adds an id that is not in it; tm_index_reserve was called before. */
void tm_index_add(struct tm_index *index, uint32_t hash, uint32_t id);

static inline uint32_t tm_index_mask(const struct tm_index *index)
{
    return index->capacity - 1;
}
