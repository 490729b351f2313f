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

/* Interpreters with a GIL of their own run the same hooks, whose fast half counts the GIL lane's
 * bytes: once there is one, that lane counts here, and finds nothing left there, so that every call
 * goes to the slow half, which knows whose bytes they are. */
extern bool tm_sample_apart TM_HIDDEN; /* set by any thread */
extern int64_t tm_sample_left_apart TM_HIDDEN;

/* The bytes to go of a lane whose lock is held. */
__attribute__((always_inline)) static inline int64_t *tm_sample_left_of(enum tm_lane lane)
{
    if (lane != TM_LANE_GIL ||
        __builtin_expect(!__atomic_load_n(&tm_sample_apart, __ATOMIC_RELAXED), 1))
        return &tm_sample_left[lane];
    if (tm_sample_left[lane] > 0) {
        tm_sample_left_apart = tm_sample_left[lane];
        tm_sample_left[lane] = 0;
    }
    return &tm_sample_left_apart;
}

/* True where this block is a sample. */
__attribute__((always_inline)) static inline bool tm_sample_take(enum tm_lane lane, size_t size)
{
    int64_t *left = tm_sample_left_of(lane);
    *left -= size ? (int64_t)size : 1;
    if (__builtin_expect(*left > 0, 1))
        return false;
    tm_sample_draw(lane);
    return true;
}
