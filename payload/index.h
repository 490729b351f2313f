// SPDX-License-Identifier: MIT
/*
 * A hash index over the ids of some vec: open addressing, ids only. The owner
 * compares elements. Guarded by the owner's lock, but for tm_index_table, which
 * an index that keeps its old tables gives to readers without a lock: they may
 * miss what is being added.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct tm_index_slot {
    uint32_t hash;
    uint32_t id_plus_1; /* 0: empty */
} __attribute__((aligned(8)));

struct tm_index_table {
    struct tm_index_table *older; /* kept for those that read it; NULL: none */
    uint32_t capacity;            /* a power of two */
    struct tm_index_slot slots[];
};

struct tm_index {
    struct tm_index_table *table; /* NULL before the first use */
    struct tm_index_slot *slots;  /* of the table */
    uint32_t capacity;            /* of the table; 0 before the first use */
    uint32_t used;
    bool keeps_tables; /* set before the first use */
};

void tm_index_done(struct tm_index *index);
/* Room for one more. False where memory is short. */
bool tm_index_reserve(struct tm_index *index);
/* Adds an id that is not in it; tm_index_reserve was called before. */
void tm_index_add(struct tm_index *index, uint32_t hash, uint32_t id);

/* Any thread, where the tables are kept: the table, NULL where there is none. */
static inline const struct tm_index_table *tm_index_table(const struct tm_index *index)
{
    return __atomic_load_n(&index->table, __ATOMIC_ACQUIRE);
}

/* A slot of it as it is now; what its id stands for is complete. */
static inline struct tm_index_slot tm_index_slot_at(const struct tm_index_table *table, uint32_t i)
{
    uint64_t word = __atomic_load_n((const uint64_t *)&table->slots[i], __ATOMIC_ACQUIRE);
    return (struct tm_index_slot){(uint32_t)word, (uint32_t)(word >> 32)};
}

static inline uint32_t tm_index_mask(const struct tm_index *index)
{
    return index->capacity - 1;
}
