// SPDX-License-Identifier: MIT
#include "payload/index.h"

#include "payload/mem.h"

enum { FIRST_CAPACITY = 1024 };

void tm_index_done(struct tm_index *index)
{
    tm_mem_unmap(index->slots, (size_t)index->capacity * sizeof(*index->slots));
    *index = (struct tm_index){0};
}

static void put(struct tm_index *index, uint32_t hash, uint32_t id_plus_1)
{
    uint32_t mask = tm_index_mask(index);
    uint32_t i = hash & mask;
    while (index->slots[i].id_plus_1 != 0)
        i = (i + 1) & mask;
    index->slots[i] = (struct tm_index_slot){hash, id_plus_1};
}

bool tm_index_reserve(struct tm_index *index)
{
    if (index->used + 1 <= index->capacity / 8 * 5)
        return true;
    struct tm_index bigger = {.capacity = index->capacity ? index->capacity * 2 : FIRST_CAPACITY,
                              .used = index->used};
    if (bigger.capacity == 0)
        return false;
    bigger.slots = tm_mem_map((size_t)bigger.capacity * sizeof(*bigger.slots));
    if (bigger.slots == NULL)
        return index->used + 1 < index->capacity; /* fuller than we like, still correct */
    for (uint32_t i = 0; i < index->capacity; i++)
        if (index->slots[i].id_plus_1 != 0)
            put(&bigger, index->slots[i].hash, index->slots[i].id_plus_1);
    tm_mem_unmap(index->slots, (size_t)index->capacity * sizeof(*index->slots));
    *index = bigger;
    return true;
}

void tm_index_add(struct tm_index *index, uint32_t hash, uint32_t id)
{
    put(index, hash, id + 1);
    index->used++;
}
