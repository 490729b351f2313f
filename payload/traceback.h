// SPDX-License-Identifier: MIT
/*
 * From a thread's frames to the id of its traceback, through two caches:
 *
 *   sites  frame key -> site (and the node of a traceback of that frame alone);
 *   walks  fingerprint of all frame keys (payload/stack.h) -> node.
 *
 * The first is exact. Of a fingerprint 96 bits are compared: two different stacks
 * share them with a chance of about 2^-96 a pair. Both are dropped as far as
 * needed when a code object dies whose frames they know (TM_MARK_BIT): an
 * address that is used again never gets the old code's lines.
 *
 * A cache belongs to a lane (payload/store.h) and is guarded by its lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "payload/frames.h"
#include "payload/hash.h"
#include "payload/stack.h"
#include "payload/store.h"

struct tm_site_slot {
    uint64_t key;               /* 0: empty */
    struct tm_counter *counter; /* of the site, in the GIL lane */
    uint32_t site;              /* TM_SITE_SKIP: a frame that Python does not show */
    uint32_t node;              /* of the traceback [site] */
    uint64_t unused;            /* a slot is half a cache line */
};
#define TM_SITE_SLOTS_LOG2 12
#define TM_SITE_SLOTS (1u << TM_SITE_SLOTS_LOG2)
#define TM_SITE_SKIP 0xfffffffeu
/* Of a frame of our own Python code: as the most recent one, the block is not traced; below
 * others it is shown. Set in tm_site_slot.site only; ids of sites have 31 bits. */
#define TM_SITE_OWN_BIT 0x80000000u

/* Two neighbours, half a cache line, are looked at. */
struct tm_walk_slot {
    uint64_t hash1;
    uint32_t check; /* of hash2 and the epoch */
    uint32_t node;
};

struct tm_traceback_cache {
    struct tm_site_slot *sites; /* TM_SITE_SLOTS */
    struct tm_walk_slot *walks;
    uint32_t walk_mask;
    uint32_t epoch;       /* starts at 1 */
    uint32_t deaths_seen; /* of tm_traceback_deaths */
    uint32_t remembered;  /* walks, since the last growth or the last epoch */
    uint32_t *path;       /* scratch of the slow path: site ids, TM_TRACEBACK_LIMIT_MAX of them */
    bool own;             /* why tm_traceback_get said false: our own code; the reader clears it */
    struct tm_site_slot uncached; /* result of a slow look-up that cannot be kept */
    struct tm_stack stack;        /* the frames that were seen last */
};

struct tm_traceback {
    uint32_t node;
    struct tm_counter *counter; /* of the most recent frame's site, in the GIL lane */
};

extern struct tm_traceback_cache tm_traceback_caches[TM_LANES] TM_HIDDEN;
extern uint32_t tm_traceback_limit TM_HIDDEN;
/* Counts code objects that died while a cache knew them. */
extern _Atomic uint32_t tm_traceback_deaths;

bool tm_traceback_init(void);
void tm_traceback_done(void);
void tm_traceback_abandon(void);
/* How much of the caches is in memory, nearly: a table may be growing meanwhile. */
size_t tm_traceback_resident_bytes(void);
/* Forgets all cached tracebacks, e.g. when the limit or a filter changes. The lanes stand still.
 */
void tm_traceback_flush(void);
/* A code object that was marked is being freed. Called with the lane's lock. */
void tm_traceback_code_died(uint64_t code_addr, enum tm_lane lane);

/* Slow paths. NULL or false: memory is short, the record must be dropped. */
const struct tm_site_slot *tm_traceback_site_slow(struct tm_traceback_cache *cache,
                                                  tm_frame_ref frame, uint64_t key);
bool tm_traceback_walk_slow(struct tm_traceback_cache *cache, tm_frame_ref top,
                            struct tm_fingerprint print, uint32_t *ret_node);
/* Keeps the node of a fingerprint for the next time. */
void tm_traceback_remember(struct tm_traceback_cache *cache, struct tm_fingerprint print,
                           uint32_t node);
void tm_traceback_catch_up(struct tm_traceback_cache *cache);

static inline uint32_t tm_traceback_site_index(uint64_t key)
{
    return (uint32_t)((key * TM_HASH_K1) >> (64 - TM_SITE_SLOTS_LOG2));
}

/* The slot of a frame, borrowed until the next call. NULL: memory is short. */
TM_ALWAYS_INLINE const struct tm_site_slot *tm_traceback_site(struct tm_traceback_cache *cache,
                                                              tm_frame_ref frame, uint64_t key)
{
    struct tm_site_slot *slot = &cache->sites[tm_traceback_site_index(key)];
    if (TM_LIKELY(slot->key == key && key != 0))
        return slot;
    return tm_traceback_site_slow(cache, frame, key);
}

TM_ALWAYS_INLINE uint32_t tm_traceback_check(const struct tm_traceback_cache *cache, uint64_t hash2)
{
    return (uint32_t)(hash2 >> 32) ^ cache->epoch * (uint32_t)TM_HASH_K1;
}

TM_ALWAYS_INLINE struct tm_walk_slot *tm_traceback_walk_slot(const struct tm_traceback_cache *cache,
                                                             uint64_t hash1)
{
    return &cache->walks[(hash1 >> 40 ^ hash1) & cache->walk_mask];
}

/* The other slot of its pair. */
TM_ALWAYS_INLINE struct tm_walk_slot *tm_traceback_walk_pair(struct tm_walk_slot *walk)
{
    return (struct tm_walk_slot *)((uintptr_t)walk ^ sizeof(*walk));
}

/* The cached node of a fingerprint, TM_NONE where there is none. */
TM_ALWAYS_INLINE uint32_t tm_traceback_cached(const struct tm_traceback_cache *cache,
                                              struct tm_fingerprint print)
{
    struct tm_walk_slot *walk = tm_traceback_walk_slot(cache, print.hash1);
    uint32_t check = tm_traceback_check(cache, print.hash2);
    if (TM_LIKELY(walk->hash1 == print.hash1 && walk->check == check))
        return walk->node;
    walk = tm_traceback_walk_pair(walk);
    return walk->hash1 == print.hash1 && walk->check == check ? walk->node : TM_NONE;
}

/* The node of `top` and everything behind it from the caches alone; TM_NONE: not in them. */
TM_ALWAYS_INLINE uint32_t tm_traceback_node(struct tm_traceback_cache *cache,
                                            const struct tm_layout *layout,
                                            tm_stack_follow_fn *follow, tm_frame_ref top,
                                            uint32_t limit, struct tm_fingerprint *ret_print)
{
    struct tm_stack *stack = &cache->stack;
    const struct tm_stack_entry *last = tm_stack_look(stack, layout, follow, top, limit);
    *ret_print = (struct tm_fingerprint){0, 0};
    if (TM_UNLIKELY(last == NULL))
        return TM_NONE;
    if (stack->answered == stack->top)
        return stack->answer;
    *ret_print = tm_stack_fingerprint(stack, last);
    uint32_t node = tm_traceback_cached(cache, *ret_print);
    if (TM_LIKELY(node != TM_NONE)) {
        stack->answered = stack->top;
        stack->answer = node;
    }
    return node;
}

/* Everything behind the most recent frame `top`. */
static inline bool tm_traceback_walk(struct tm_traceback_cache *cache,
                                     const struct tm_layout *layout, tm_frame_ref top,
                                     uint32_t limit, uint32_t *ret_node)
{
    struct tm_fingerprint print;
    *ret_node = tm_traceback_node(cache, layout, tm_stack_follow_any, top, limit, &print);
    return *ret_node != TM_NONE || tm_traceback_walk_slow(cache, top, print, ret_node);
}

/* The traceback of a thread. False: not to be traced; unless cache->own tells that our own code
 * allocates, memory is short and the record is dropped. */
static inline bool tm_traceback_get(struct tm_traceback_cache *cache,
                                    const struct tm_layout *layout, uint64_t tstate,
                                    struct tm_traceback *ret)
{
    uint32_t limit = tm_traceback_limit;
    tm_frame_ref frame = tstate != 0 && limit != 0 ? tm_frames_top(layout, tstate) : 0;
    const struct tm_site_slot *top;
    uint64_t key;
    for (;; frame = tm_frames_back(layout, frame)) {
        if (TM_UNLIKELY(frame == 0)) {
            *ret = (struct tm_traceback){0, tm_store_counter(TM_LANE_GIL, 0)};
            return true;
        }
        if (tm_frames_is_shim(layout, frame))
            continue;
        key = tm_frames_key(layout, frame);
        top = tm_traceback_site(cache, frame, key);
        if (TM_UNLIKELY(top == NULL))
            return false;
        if (TM_LIKELY(top->site < TM_SITE_OWN_BIT))
            break;
        if (top->site != TM_SITE_SKIP) {
            cache->own = true;
            return false;
        }
    }
    *ret = (struct tm_traceback){top->node, top->counter};
    return limit == 1 || tm_traceback_walk(cache, layout, frame, limit, &ret->node);
}

/* After tm_traceback_get said false. */
static inline void tm_traceback_not_traced(struct tm_traceback_cache *cache)
{
    if (!cache->own)
        tm_store_count_dropped();
    cache->own = false;
}

/* For a lane that does not see every code object die (a shared one): before each use. */
static inline void tm_traceback_refresh(struct tm_traceback_cache *cache)
{
    if (cache->deaths_seen != atomic_load_explicit(&tm_traceback_deaths, memory_order_relaxed))
        tm_traceback_catch_up(cache);
}
