// SPDX-License-Identifier: MIT
/* Interning by open addressing. libc only. */
#include "analyzer/core/intern.h"

#include <stdlib.h>
#include <string.h>

#include "format/tms_reader.h"

static uint32_t hash_bytes(const void *data, size_t n_bytes)
{
    const unsigned char *p = data;
    uint64_t h = 0x9e3779b97f4a7c15u ^ n_bytes;
    uint64_t word;

    for (; n_bytes >= 8; p += 8, n_bytes -= 8) {
        memcpy(&word, p, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    if (n_bytes) {
        word = 0;
        memcpy(&word, p, n_bytes);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    h *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(h >> 32);
}

void tm_intern_init(struct tm_intern *table, uint32_t item_bytes)
{
    memset(table, 0, sizeof *table);
    table->item_bytes = item_bytes;
}

void tm_intern_init_strings(struct tm_intern *table)
{
    tm_intern_init(table, sizeof(struct tms_str));
    table->strings = true;
}

void tm_intern_done(struct tm_intern *table)
{
    free(table->items);
    free(table->hashes);
    free(table->slots);
    memset(table, 0, sizeof *table);
}

static bool items_equal(const struct tm_intern *table, uint32_t id, const void *item)
{
    const char *have = (const char *)table->items + (size_t)id * table->item_bytes;

    if (table->strings) {
        const struct tms_str *a = (const void *)have;
        const struct tms_str *b = item;
        return a->n_bytes == b->n_bytes && memcmp(a->bytes, b->bytes, a->n_bytes) == 0;
    }
    return memcmp(have, item, table->item_bytes) == 0;
}

static bool grow_slots(struct tm_intern *table)
{
    uint32_t n = table->slot_mask ? (table->slot_mask + 1) * 2 : 1024;
    uint32_t *slots = calloc(n, sizeof *slots);

    if (slots == NULL)
        return false;
    for (uint32_t id = 0; id < table->count; id++) {
        uint32_t at = table->hashes[id] & (n - 1);
        while (slots[at])
            at = (at + 1) & (n - 1);
        slots[at] = id + 1;
    }
    free(table->slots);
    table->slots = slots;
    table->slot_mask = n - 1;
    return true;
}

static bool grow_items(struct tm_intern *table)
{
    uint32_t capacity = table->capacity ? table->capacity * 2 : 512;
    void *items = realloc(table->items, (size_t)capacity * table->item_bytes);
    uint32_t *hashes;

    if (items == NULL)
        return false;
    table->items = items;
    hashes = realloc(table->hashes, (size_t)capacity * sizeof *hashes);
    if (hashes == NULL)
        return false;
    table->hashes = hashes;
    table->capacity = capacity;
    return true;
}

uint32_t tm_intern_get(struct tm_intern *table, const void *item)
{
    uint32_t hash;
    uint32_t at;

    if (table->strings) {
        const struct tms_str *s = item;
        hash = hash_bytes(s->bytes, s->n_bytes);
    } else {
        hash = hash_bytes(item, table->item_bytes);
    }
    /* At most half full, so that probing stays short. */
    if (table->count >= 0x40000000u)
        return TMS_NO_ID;
    if (table->count * 2 >= table->slot_mask && !grow_slots(table))
        return TMS_NO_ID;
    for (at = hash & table->slot_mask; table->slots[at]; at = (at + 1) & table->slot_mask) {
        uint32_t id = table->slots[at] - 1;
        if (table->hashes[id] == hash && items_equal(table, id, item))
            return id;
    }
    if (table->count == table->capacity && !grow_items(table))
        return TMS_NO_ID;
    memcpy((char *)table->items + (size_t)table->count * table->item_bytes, item,
           table->item_bytes);
    table->hashes[table->count] = hash;
    table->slots[at] = table->count + 1;
    return table->count++;
}
