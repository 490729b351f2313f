// SPDX-License-Identifier: MIT
/*
 * Poisson sampling by bytes: every byte that is allocated is a sample with the
 * same small probability, so that a block of s bytes is kept with probability
 * 1 - exp(-s / mean). The reader of a snapshot divides by that probability and
 * gets estimates without bias. A block of 0 bytes counts as 1.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/store.h"

/* Bytes to go to the next sample; guarded by the lane's lock. */
extern int64_t tm_sample_left[TM_LANES] TM_HIDDEN;

void tm_sample_init(uint64_t mean_bytes, uint64_t seed);
/* Draws the next distance after a sample. */
void tm_sample_draw(enum tm_lane lane);

/* Which pages of the heap may hold a sampled block, folded to 2^16 of them: most frees need to look
 * no further. Kept by the store while sampling, with the number of entries in each. */
#define TM_SAMPLE_PAGES 65536u
extern uint64_t tm_sample_pages[TM_SAMPLE_PAGES / 64] TM_HIDDEN;
extern uint32_t tm_sample_page_entries[TM_SAMPLE_PAGES];

static inline bool tm_sample_page_used(uint64_t addr)
{
    uint32_t page = (uint32_t)(addr >> 12) & (TM_SAMPLE_PAGES - 1);
    return __atomic_load_n(&tm_sample_pages[page / 64], __ATOMIC_RELAXED) >> (page % 64) & 1;
}

/* True where this block is a sample. */
__attribute__((always_inline)) static inline bool tm_sample_take(enum tm_lane lane, size_t size)
{
    tm_sample_left[lane] -= size ? (int64_t)size : 1;
    if (__builtin_expect(tm_sample_left[lane] > 0, 1))
        return false;
    tm_sample_draw(lane);
    return true;
}
