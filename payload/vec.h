// SPDX-License-Identifier: MIT
/*
 * A growing array whose elements never move, so that readers need no lock. One
 * writer at a time (the caller's lock); an element is complete when `count` has
 * passed it. The layout is format/state.h's: readers outside walk it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/state.h"

#define TM_VEC_SEGMENT_ELEMS (1u << TM_VEC_SHIFT)
#define TM_VEC_MAX (TM_VEC_SEGMENTS << TM_VEC_SHIFT)

/* False where memory is short. */
bool tm_vec_init(struct tm_vec *vec, uint32_t elem_bytes);
/* Unmaps everything; accepts a zeroed one. */
void tm_vec_done(struct tm_vec *vec);
/* Makes sure that element `index` can be written. Any thread. False where memory is short. */
bool tm_vec_reserve(struct tm_vec *vec, uint32_t index);

/* How much of it is in memory. Any thread; the vec must not be done away with meanwhile. */
size_t tm_vec_resident_bytes(const struct tm_vec *vec);

/* Element `index`; its segment must exist. */
static inline void *tm_vec_at(const struct tm_vec *vec, uint32_t index, uint32_t elem_bytes)
{
    const uint64_t *dir = (const uint64_t *)vec->dir_addr;
    uint64_t segment = __atomic_load_n(&dir[index >> TM_VEC_SHIFT], __ATOMIC_ACQUIRE);
    return (char *)segment + (uint64_t)(index & (TM_VEC_SEGMENT_ELEMS - 1)) * elem_bytes;
}

/* The same, NULL where the segment is not there yet. */
static inline void *tm_vec_find(const struct tm_vec *vec, uint32_t index, uint32_t elem_bytes)
{
    const uint64_t *dir = (const uint64_t *)vec->dir_addr;
    if (dir == NULL || (index >> TM_VEC_SHIFT) >= TM_VEC_SEGMENTS)
        return NULL;
    uint64_t segment = __atomic_load_n(&dir[index >> TM_VEC_SHIFT], __ATOMIC_ACQUIRE);
    if (segment == 0)
        return NULL;
    return (char *)segment + (uint64_t)(index & (TM_VEC_SEGMENT_ELEMS - 1)) * elem_bytes;
}

static inline uint32_t tm_vec_count(const struct tm_vec *vec)
{
    return atomic_load_explicit(&vec->count, memory_order_acquire);
}
