// SPDX-License-Identifier: MIT
/*
 * Gives equal items one small id: the step that turns strings, sites and
 * tracebacks of several files into integers that can be compared. Ids are
 * dense and never change. Not thread-safe.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_intern {
    void *items;        /* id -> item, `item_bytes` each */
    uint32_t *hashes;   /* id -> hash */
    uint32_t *slots;    /* open addressing; id + 1, 0: free */
    uint32_t slot_mask; /* 0: no table yet */
    uint32_t count;
    uint32_t capacity;
    uint32_t item_bytes;
    bool strings; /* items are struct tms_str and compare by their bytes */
};

void tm_intern_init(struct tm_intern *table, uint32_t item_bytes);
/* Items are struct tms_str whose bytes are borrowed and must outlive the table. */
void tm_intern_init_strings(struct tm_intern *table);
void tm_intern_done(struct tm_intern *table);

/* Id of `item`, which is copied if it is new. TMS_NO_ID when memory is short. */
uint32_t tm_intern_get(struct tm_intern *table, const void *item);
