// SPDX-License-Identifier: MIT
/*
 * The trace store: shadow map, counters and totals together, so that a record
 * is one call. It is written in lanes, each with a lock and caches of its own:
 *
 *   the GIL lane      the obj and mem hooks of the main interpreter; the GIL is
 *                     its lock, its counters are written with plain stores;
 *   the shared lanes  everybody else: raw allocations by threads without the GIL,
 *                     interpreters with a GIL of their own. One of them serves a
 *                     Python with a GIL. In a free-threaded build they do all the
 *                     work, a thread has one to itself as far as there are enough
 *                     of them, and the GIL lane is idle. Their counters are common
 *                     to them and written with atomic operations.
 *
 * A moment at which the GIL and the locks of all shared lanes (tm_store_stop) are
 * held is a consistent view of everything: the lanes stand still. Lock order: GIL,
 * lanes ascending, tm_intern_lock. No function here calls an allocator of the
 * program.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/intern.h"
#include "payload/shadow.h"

enum { TM_SHARED_LANES = 32 };
enum tm_lane { TM_LANE_GIL = 0, TM_LANE_SHARED = 1, TM_LANES = 1 + TM_SHARED_LANES };

/* An entry that vanished while a snapshot was being copied, as it was when that began. */
struct tm_undo {
    uint64_t addr;
    uint64_t entry;
    uint64_t size_bytes;
};

struct tm_undo_log {
    struct tm_undo *records;
    uint32_t capacity, used;
    bool lost; /* memory was short: the snapshot under way cannot be completed */
};

/* What the hot path reads; written while the lanes stand still. */
struct tm_store {
    uint64_t generation_bits; /* the current generation, shifted to its place */
    uint32_t generation;
    bool snapshot_active;
    uint64_t window_base; /* traced bytes are inside while (traced - base) < span */
    uint64_t window_span;
    void (*window_crossed)(void);
    double sample_mean_bytes; /* 0: every block is recorded */
    struct tm_undo_log undo[TM_LANES];
    /* Called for a block that carries the mark; the caller's lane is given. */
    void (*mark_freed)(uint64_t addr, enum tm_lane lane);
};

extern struct tm_store tm_store TM_HIDDEN;
/* Lanes in use: 2, in a free-threaded build TM_LANES. Set before the store is up. */
extern uint32_t tm_lanes_used;

/* The lock of a shared lane. */
struct tm_lane_lock {
    pthread_mutex_t mutex;
} __attribute__((aligned(64)));
extern struct tm_lane_lock tm_lane_locks[TM_LANES];

static inline void tm_lane_take(enum tm_lane lane)
{
    pthread_mutex_lock(&tm_lane_locks[lane].mutex);
}

static inline void tm_lane_drop(enum tm_lane lane)
{
    pthread_mutex_unlock(&tm_lane_locks[lane].mutex);
}

/* Takes and drops the locks of all shared lanes. */
void tm_store_stop(void);
void tm_store_go(void);

bool tm_store_init(uint32_t granule_shift);
/* The lanes stand still or are known to be off. */
void tm_store_done(void);
void tm_store_abandon(void);

/* Sizes from TM_SIZE_OVERFLOW up live in a side table with a lock of its own. */
uint64_t tm_store_overflow_take(uint64_t addr);
uint64_t tm_store_overflow_find(uint64_t addr);
bool tm_store_overflow_put(uint64_t addr, uint64_t size_bytes);

void tm_store_undo_append(enum tm_lane lane, uint64_t addr, uint64_t entry);

/* Snapshots: begin and end are called with the lanes standing still. Entries of older
 * generations belong to the snapshot; what of them vanishes meanwhile goes to the undo logs. */
void tm_store_snapshot_begin(void);
/* Moves the logs to ret[TM_LANES]; the caller gives them back with tm_store_undo_free. */
void tm_store_snapshot_end(struct tm_undo_log ret[TM_LANES]);
void tm_store_undo_free(struct tm_undo_log *log);

/* Measures what the store holds and publishes it in tm_state_export.own_bytes. Returns what of it
 * is without data. other_bytes: resident elsewhere. The store must not be done away with meanwhile.
 */
uint64_t tm_store_measure(size_t other_bytes);

uint64_t tm_store_entry_size_bytes(uint64_t addr, uint64_t entry);

static inline int64_t tm_store_traced_bytes(void)
{
    struct tm_state *state = &tm_state_export;
    return atomic_load_explicit(&state->gil_bytes, memory_order_relaxed) +
           atomic_load_explicit(&state->shared_bytes, memory_order_relaxed);
}

static inline void tm_store_count_dropped(void)
{
    atomic_fetch_add_explicit(&tm_state_export.dropped, 1, memory_order_relaxed);
}

/* Adds to a total that only this lane writes (its lock is held), but others read. */
#define TM_LANE_ADD(field, value)                                                                  \
    atomic_store_explicit(&(field),                                                                \
                          atomic_load_explicit(&(field), memory_order_relaxed) + (value),          \
                          memory_order_relaxed)

static inline struct tm_counter *tm_store_counter(enum tm_lane lane, uint32_t site)
{
    struct tm_vec *vec =
        lane == TM_LANE_GIL ? &tm_state_export.counters_gil : &tm_state_export.counters_shared;
    return tm_vec_at(vec, site, sizeof(struct tm_counter));
}

/* The counter of a traceback's most recent site. */
__attribute__((always_inline)) static inline struct tm_counter *
tm_store_node_counter(enum tm_lane lane, uint32_t node)
{
    if (lane == TM_LANE_GIL)
        return *(struct tm_counter **)tm_vec_at(&tm_intern_node_counters, node, sizeof(void *));
    return tm_store_counter(lane, tm_intern_node_at(node)->site);
}

/* Blocks that are alive, by the counters of all sites. Any thread; costs a walk of the sites. */
uint64_t tm_store_live_blocks(void);

/* Raises a peak that several lanes write. */
static inline void tm_store_raise(int64_t *peak, int64_t value)
{
    int64_t seen = __atomic_load_n(peak, __ATOMIC_RELAXED);
    while (value > seen && !__atomic_compare_exchange_n(peak, &seen, value, true, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED))
        ;
}

/* Adds to the total without a look at the window. Returns the total of all lanes. */
__attribute__((always_inline)) static inline int64_t tm_store_shift_traced(enum tm_lane lane,
                                                                           int64_t bytes)
{
    struct tm_state *state = &tm_state_export;
    if (lane == TM_LANE_GIL)
        TM_LANE_ADD(state->gil_bytes, bytes);
    else
        atomic_fetch_add_explicit(&state->shared_bytes, bytes, memory_order_relaxed);
    return tm_store_traced_bytes();
}

__attribute__((always_inline)) static inline int64_t tm_store_add_traced(enum tm_lane lane,
                                                                         int64_t bytes)
{
    int64_t traced = tm_store_shift_traced(lane, bytes);
    uint64_t base = __atomic_load_n(&tm_store.window_base, __ATOMIC_RELAXED);
    uint64_t span = __atomic_load_n(&tm_store.window_span, __ATOMIC_RELAXED);
    if (__builtin_expect((uint64_t)traced - base >= span, 0))
        tm_store.window_crossed();
    return traced;
}

/* A new block of a shared lane: other lanes write the same counter. */
static inline void tm_store_account_shared(struct tm_counter *counter, int64_t bytes,
                                           uint64_t blocks)
{
    int64_t live = __atomic_add_fetch(&counter->live_bytes, bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(&counter->total_blocks, blocks, __ATOMIC_RELAXED);
    tm_store_raise(&counter->peak_bytes, live);
    int64_t traced = tm_store_add_traced(TM_LANE_SHARED, bytes);
    tm_store_raise((int64_t *)&tm_state_export.shared_peak_bytes, traced);
}

/* Takes a block out of a counter; negative numbers put it back. */
__attribute__((always_inline)) static inline void
tm_store_count_gone(enum tm_lane lane, struct tm_counter *counter, int64_t bytes, uint64_t blocks)
{
    if (lane == TM_LANE_GIL) {
        counter->live_bytes -= bytes;
        counter->gone_blocks += blocks;
    } else {
        __atomic_fetch_sub(&counter->live_bytes, bytes, __ATOMIC_RELAXED);
        __atomic_fetch_add(&counter->gone_blocks, blocks, __ATOMIC_RELAXED);
    }
}

__attribute__((always_inline)) static inline void
tm_store_account_new(enum tm_lane lane, struct tm_counter *counter, int64_t bytes, uint64_t blocks)
{
    struct tm_state *state = &tm_state_export;
    if (lane != TM_LANE_GIL) {
        tm_store_account_shared(counter, bytes, blocks);
        return;
    }
    int64_t live = counter->live_bytes + bytes;
    counter->live_bytes = live;
    counter->total_blocks += blocks;
    if (live > counter->peak_bytes)
        counter->peak_bytes = live;
    int64_t traced = tm_store_add_traced(lane, bytes);
    /* The shared lanes have a peak of their own: neither overwrites a higher one of the other's. */
    if (traced > atomic_load_explicit(&state->peak_bytes, memory_order_relaxed))
        atomic_store_explicit(&state->peak_bytes, traced, memory_order_relaxed);
}

__attribute__((always_inline)) static inline void
tm_store_account_gone(enum tm_lane lane, struct tm_counter *counter, int64_t bytes, uint64_t blocks)
{
    tm_store_count_gone(lane, counter, bytes, blocks);
    tm_store_add_traced(lane, -bytes);
}

/* A block's record, out of the map but still in the counters. entry 0: there was none. */
struct tm_taken {
    uint64_t entry;
    uint64_t size_bytes;
};

/* Sampling: an entry came to this page, so that frees in it must look, or went from it. */
void tm_store_note_page(uint64_t addr);
void tm_store_drop_page(uint64_t addr);

/* Takes the record of a block out of the map: before the block is freed or reallocated, because
 * its address may be somebody else's as soon as the allocator below has it. */
__attribute__((always_inline)) static inline struct tm_taken tm_store_take(enum tm_lane lane,
                                                                           uint64_t addr)
{
    struct tm_taken none = {0, 0};
    uint64_t *slot = tm_shadow_find(addr);
    if (slot == NULL)
        return none;
    uint64_t entry = __atomic_load_n(slot, __ATOMIC_RELAXED);
    if (entry == 0)
        return none;
    if (__builtin_expect(tm_store.snapshot_active, 0) &&
        tm_entry_generation(entry) != tm_store.generation)
        tm_store_undo_append(lane, addr, entry);
    __atomic_store_n(slot, 0, __ATOMIC_RELAXED);
    if (__builtin_expect(tm_store.sample_mean_bytes != 0, 0))
        tm_store_drop_page(addr);
    if (__builtin_expect((entry & TM_MARK_BIT) != 0, 0)) {
        tm_store.mark_freed(addr, lane);
        entry &= ~TM_MARK_BIT;
    }
    if (tm_entry_domain_plus_1(entry) == 0)
        return none;
    uint64_t size_bytes = tm_entry_size(entry);
    if (__builtin_expect(size_bytes == TM_SIZE_OVERFLOW, 0))
        size_bytes = tm_store_overflow_take(addr);
    return (struct tm_taken){entry, size_bytes};
}

/* What a block adds to the counters. While sampling it stands for others: its bytes and (in units
 * of 1 / TM_BLOCK_SCALE) its count are divided by the chance that it was kept. */
struct tm_weight {
    int64_t bytes, blocks;
};
struct tm_weight tm_store_scaled_weight(uint64_t size_bytes);

static inline struct tm_weight tm_store_weight(uint64_t size_bytes)
{
    if (__builtin_expect(tm_store.sample_mean_bytes != 0, 0))
        return tm_store_scaled_weight(size_bytes);
    return (struct tm_weight){(int64_t)size_bytes, 1};
}

/* Takes it out of the counters as well. */
__attribute__((always_inline)) static inline void tm_store_unaccount(enum tm_lane lane,
                                                                     struct tm_taken taken)
{
    struct tm_weight weight = tm_store_weight(taken.size_bytes);
    tm_store_account_gone(lane, tm_store_node_counter(lane, tm_entry_node(taken.entry)),
                          weight.bytes, (uint64_t)weight.blocks);
}

/* The two halves of a realloc that does not happen under the GIL: the block must be either in the
 * map and in the counters or in neither whenever the lane's lock is free, because a snapshot may
 * begin meanwhile. The window is not looked at in between: the block only changes its place. */
struct tm_taken tm_store_lift(enum tm_lane lane, uint64_t addr);
/* The realloc failed: everything is as it was before. */
void tm_store_drop_back(enum tm_lane lane, uint64_t addr, struct tm_taken taken);

/* The block at addr is about to be freed. */
__attribute__((always_inline)) static inline void tm_store_forget(enum tm_lane lane, uint64_t addr)
{
    struct tm_taken taken = tm_store_take(lane, addr);
    if (taken.entry != 0)
        tm_store_unaccount(lane, taken);
}

/* The realloc failed: the block is where it was. */
void tm_store_put_back(uint64_t addr, struct tm_taken taken);

/* Sets the mark of a block (see TM_MARK_BIT). False: it could not be kept. */
bool tm_store_mark(uint64_t addr);

/* The entry of a block as it is now: current generation, no mark. */
__attribute__((always_inline)) static inline uint64_t tm_store_entry(uint64_t size_field,
                                                                     uint32_t domain, uint32_t node)
{
    return size_field | (uint64_t)node << TM_NODE_SHIFT |
           (uint64_t)(domain + 1) << TM_DOMAIN_SHIFT | tm_store.generation_bits;
}

/* A block was allocated. */
static inline void tm_store_record(enum tm_lane lane, uint64_t addr, uint64_t size_bytes,
                                   uint32_t domain, uint32_t node)
{
    uint64_t *slot = tm_shadow_find(addr);
    if (slot == NULL && (slot = tm_shadow_make(addr)) == NULL) {
        tm_store_count_dropped();
        return;
    }
    if (__atomic_load_n(slot, __ATOMIC_RELAXED) != 0)
        tm_store_forget(lane, addr); /* its free went past us, e.g. under another tool's hooks */
    uint64_t size_field = size_bytes;
    if (size_bytes >= TM_SIZE_OVERFLOW) {
        if (!tm_store_overflow_put(addr, size_bytes)) {
            tm_store_count_dropped();
            return;
        }
        size_field = TM_SIZE_OVERFLOW;
    }
    __atomic_store_n(slot, tm_store_entry(size_field, domain, node), __ATOMIC_RELEASE);
    if (tm_store.sample_mean_bytes != 0)
        tm_store_note_page(addr);
    struct tm_weight weight = tm_store_weight(size_bytes);
    tm_store_account_new(lane, tm_store_node_counter(lane, node), weight.bytes,
                         (uint64_t)weight.blocks);
}
