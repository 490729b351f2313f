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

/* How many entries each page of the heap holds, folded to 2^16 pages: most frees need to look no
 * further than that there are none. Kept by the store while sampling; one word, so that no free can
 * miss an entry that another thread's free of a neighbour is just taking out of the count. What
 * once was full stays so. */
#define TM_SAMPLE_PAGES 65536u
#define TM_SAMPLE_PAGE_FULL UINT16_MAX
extern uint16_t tm_sample_pages[TM_SAMPLE_PAGES] TM_HIDDEN;

static inline uint16_t *tm_sample_page(uint64_t addr)
{
    return &tm_sample_pages[addr >> 12 & (TM_SAMPLE_PAGES - 1)];
}

static inline bool tm_sample_page_used(uint64_t addr)
{
    return __atomic_load_n(tm_sample_page(addr), __ATOMIC_RELAXED) != 0;
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
