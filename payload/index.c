// SPDX-License-Identifier: MIT
#include "payload/index.h"

#include "payload/mem.h"

enum { FIRST_CAPACITY = 1024 };

static size_t table_bytes(uint32_t capacity)
{
    return sizeof(struct tm_index_table) + (size_t)capacity * sizeof(struct tm_index_slot);
}

void tm_index_done(struct tm_index *index)
{
    for (struct tm_index_table *table = index->table, *older; table != NULL; table = older) {
        older = table->older;
        tm_mem_unmap(table, table_bytes(table->capacity));
    }
    *index = (struct tm_index){0};
}

static void put(struct tm_index_table *table, uint32_t hash, uint32_t id_plus_1)
{
    uint32_t mask = table->capacity - 1;
    uint32_t i = hash & mask;
    while (table->slots[i].id_plus_1 != 0)
        i = (i + 1) & mask;
    __atomic_store_n((uint64_t *)&table->slots[i], hash | (uint64_t)id_plus_1 << 32,
                     __ATOMIC_RELEASE);
}

bool tm_index_reserve(struct tm_index *index)
{
    if (index->used + 1 <= index->capacity / 8 * 5)
        return true;
    uint32_t capacity = index->capacity ? index->capacity * 2 : FIRST_CAPACITY;
    if (capacity == 0)
        return false;
    struct tm_index_table *bigger = tm_mem_map(table_bytes(capacity)), *old = index->table;
    if (bigger == NULL)
        return index->used + 1 < index->capacity; /* fuller than we like, still correct */
    bigger->capacity = capacity;
    for (uint32_t i = 0; i < index->capacity; i++)
        if (index->slots[i].id_plus_1 != 0)
            put(bigger, index->slots[i].hash, index->slots[i].id_plus_1);
    if (index->keeps_tables)
        bigger->older = old; /* all of them together are smaller than this one */
    else if (old != NULL)
        tm_mem_unmap(old, table_bytes(old->capacity));
    index->slots = bigger->slots;
    index->capacity = capacity;
    __atomic_store_n(&index->table, bigger, __ATOMIC_RELEASE);
    return true;
}

void tm_index_add(struct tm_index *index, uint32_t hash, uint32_t id)
{
    put(index->table, hash, id + 1);
    index->used++;
}
