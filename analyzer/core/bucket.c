// SPDX-License-Identifier: MIT
/* Sums by key. libc only. */
#include "analyzer/core/bucket.h"

#include <stdlib.h>
#include <string.h>

static size_t slot_of(uint64_t id, size_t n_slots)
{
    return (size_t)((id * 0x9e3779b97f4a7c15u) >> 32) & (n_slots - 1);
}

static bool grow(struct tm_buckets *buckets)
{
    size_t n_slots = buckets->n_slots ? buckets->n_slots * 2 : 64;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    struct tm_group *items = realloc(buckets->items, n_slots / 2 * sizeof *items);

    if (items)
        buckets->items = items;
    if (slots == NULL || items == NULL) {
        free(slots);
        return false;
    }
    for (size_t i = 0; i < buckets->n_items; i++) {
        size_t at = slot_of(items[i].id, n_slots);
        while (slots[at])
            at = (at + 1) & (n_slots - 1);
        slots[at] = (uint32_t)i + 1;
    }
    free(buckets->slots);
    buckets->slots = slots;
    buckets->n_slots = n_slots;
    buckets->capacity = n_slots / 2;
    return true;
}

bool tm_buckets_add(struct tm_buckets *buckets, uint64_t id, uint64_t bytes, uint64_t count)
{
    size_t at;

    if (buckets->n_items == 0 || buckets->items[buckets->last].id != id) {
        if (buckets->n_items == buckets->capacity && !grow(buckets))
            return false;
        at = slot_of(id, buckets->n_slots);
        while (buckets->slots[at] && buckets->items[buckets->slots[at] - 1].id != id)
            at = (at + 1) & (buckets->n_slots - 1);
        if (buckets->slots[at] == 0) {
            buckets->items[buckets->n_items] = (struct tm_group){.id = id};
            buckets->slots[at] = (uint32_t)++buckets->n_items;
        }
        buckets->last = buckets->slots[at] - 1;
    }
    buckets->items[buckets->last].bytes += bytes;
    buckets->items[buckets->last].count += count;
    return true;
}

bool tm_buckets_merge(struct tm_buckets *to, const struct tm_buckets *from)
{
    for (size_t i = 0; i < from->n_items; i++) {
        const struct tm_group *item = &from->items[i];
        if (!tm_buckets_add(to, item->id, item->bytes, item->count))
            return false;
    }
    return true;
}

struct tm_group *tm_buckets_steal(struct tm_buckets *buckets, size_t *ret_n_items)
{
    struct tm_group *items = buckets->items;

    *ret_n_items = buckets->n_items;
    if (items == NULL)
        items = malloc(sizeof *items);
    buckets->items = NULL;
    tm_buckets_done(buckets);
    return items;
}

void tm_buckets_done(struct tm_buckets *buckets)
{
    free(buckets->items);
    free(buckets->slots);
    memset(buckets, 0, sizeof *buckets);
}
