// SPDX-License-Identifier: MIT
/*
 * The shadow map: one 64-bit entry for every granule of address space that
 * holds a block (format/state.h has the layout). An entry belongs to the thread
 * that owns the block, so that a plain store writes it: it is cleared before
 * the block is freed and set after it was allocated.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/state.h"

struct tm_shadow {
    uint64_t **l1;          /* TM_L1_ENTRIES */
    uint32_t granule_shift; /* 4, or 3 where blocks are aligned to 8 bytes only */
    uint32_t chunk_entries;
    _Atomic uint32_t chunks_made;
};

extern struct tm_shadow tm_shadow TM_HIDDEN;

bool tm_shadow_init(uint32_t granule_shift);
void tm_shadow_done(void);
void tm_shadow_abandon(void);
/* The slot of `addr`; makes the chunk. NULL: memory is short or the address cannot be kept. */
uint64_t *tm_shadow_make(uint64_t addr);

/* The slot of `addr`, NULL where its chunk does not exist or where the address cannot have one
 * (not user space, or not aligned to a granule: two blocks would share an entry). `shift` is
 * tm_shadow.granule_shift; the hooks know it as a constant. */
__attribute__((always_inline)) static inline uint64_t *tm_shadow_find_shift(uint64_t addr,
                                                                            uint32_t shift)
{
    uint64_t granule = addr >> shift | addr << (64 - shift); /* stray low bits end on top */
    if (__builtin_expect(granule >> (47 - shift) != 0, 0))
        return NULL;
    uint64_t *l2 = __atomic_load_n(&tm_shadow.l1[addr >> 36], __ATOMIC_ACQUIRE);
    if (__builtin_expect(l2 == NULL, 0))
        return NULL;
    uint64_t chunk =
        __atomic_load_n(&l2[(addr >> TM_CHUNK_SHIFT) & (TM_L2_ENTRIES - 1)], __ATOMIC_ACQUIRE);
    if (__builtin_expect(chunk == 0, 0))
        return NULL;
    uint64_t *slot = (uint64_t *)chunk + (granule & ((1u << (TM_CHUNK_SHIFT - shift)) - 1));
    if (slot == NULL)
        __builtin_unreachable(); /* spares the caller's look at what was looked at here */
    return slot;
}

static inline uint64_t *tm_shadow_find(uint64_t addr)
{
    return tm_shadow_find_shift(addr, tm_shadow.granule_shift);
}

/* Calls visit(chunk's first address, its entries) for every chunk, ascending by address. */
typedef void tm_shadow_visit(void *data, uint64_t base_addr, uint64_t *entries);
void tm_shadow_walk(tm_shadow_visit *visit, void *data);

/* How much of it is in memory. Any thread; the map must not be done away with meanwhile. */
size_t tm_shadow_resident_bytes(void);

/* Gives pages back on which no entry is left, a few at a time so that the pauses are short: find
 * looks without any lock, do discards what is still empty while the lanes stand still. */
#define TM_SHADOW_TRIM_PAGES 64
#define TM_SHADOW_CHUNK_PAGES 256 /* at most: granules of 8 bytes */
struct tm_shadow_trim {
    uint64_t next_base; /* 0 at first: where the next find goes on */
    uint32_t n;
    uint64_t *pages[TM_SHADOW_TRIM_PAGES + TM_SHADOW_CHUNK_PAGES];
};
/* False: nothing more to be found. */
bool tm_shadow_trim_find(struct tm_shadow_trim *trim);
/* Returns the bytes that it gave back. */
size_t tm_shadow_trim_do(struct tm_shadow_trim *trim);

/* The fields of an entry. */
static inline uint32_t tm_entry_size(uint64_t entry)
{
    return (uint32_t)entry & TM_SIZE_OVERFLOW;
}
static inline uint32_t tm_entry_node(uint64_t entry)
{
    return (uint32_t)(entry >> TM_NODE_SHIFT) & ((1u << TM_NODE_BITS) - 1);
}
static inline uint32_t tm_entry_domain_plus_1(uint64_t entry)
{
    return (uint32_t)(entry >> TM_DOMAIN_SHIFT) & 3;
}
static inline uint32_t tm_entry_generation(uint64_t entry)
{
    return (uint32_t)(entry >> TM_GEN_SHIFT) & ((1u << TM_GEN_BITS) - 1);
}
