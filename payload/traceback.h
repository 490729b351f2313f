// SPDX-License-Identifier: MIT
/*
 * From a thread's frames to the id of its traceback, through two caches:
 *
 *   sites  frame key -> site (and the node of a traceback of that frame alone);
 *   walks  128-bit fingerprint of all frame keys -> node.
 *
 * The first is exact. Two different stacks that are alive together share a
 * fingerprint with a chance of about 2^-128 a pair. Both are dropped as far as
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

struct tm_walk_slot {
    uint64_t hash1, hash2;
    uint32_t node;
    uint32_t epoch; /* valid while equal to the cache's */
};

struct tm_traceback_cache {
    struct tm_site_slot *sites; /* TM_SITE_SLOTS */
    struct tm_walk_slot *walks;
    uint32_t walk_mask;
    uint32_t epoch;       /* starts at 1 */
    uint32_t deaths_seen; /* of tm_traceback_deaths */
    uint32_t evictions;   /* walks that were overwritten while valid, since the last growth */
    uint32_t *path;       /* scratch of the slow path: site ids, TM_TRACEBACK_LIMIT_MAX of them */
    bool own;             /* why tm_traceback_get said false: our own code; the reader clears it */
    struct tm_site_slot uncached; /* result of a slow look-up that cannot be kept */
};

struct tm_traceback {
    uint32_t node;
    struct tm_counter *counter; /* of the most recent frame's site, in the GIL lane */
};

extern struct tm_traceback_cache tm_traceback_caches[TM_LANES];
extern uint32_t tm_traceback_limit;
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
bool tm_traceback_walk_slow(struct tm_traceback_cache *cache, tm_frame_ref top, uint64_t hash1,
                            uint64_t hash2, uint32_t *ret_node);
/* Keeps the node of a fingerprint for the next time. */
void tm_traceback_remember(struct tm_traceback_cache *cache, uint64_t hash1, uint64_t hash2,
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

struct tm_fingerprint {
    uint64_t hash1, hash2;
};

/* Of the frame `top`, whose key is given, and of those behind it. False: one has no key. */
TM_ALWAYS_INLINE bool tm_traceback_fingerprint(const struct tm_layout *layout, tm_frame_ref top,
                                               uint64_t key, uint32_t limit,
                                               struct tm_fingerprint *ret)
{
    uint64_t hash1 = key * TM_HASH_K1, hash2 = key ^ TM_HASH_K2;
    tm_frame_ref frame = tm_frames_back(layout, top);
    for (uint32_t n = 1; frame != 0 && n < limit; frame = tm_frames_back(layout, frame)) {
        if (tm_frames_is_shim(layout, frame))
            continue;
        key = tm_frames_key(layout, frame);
        if (tm_frames_are_objects(layout) && TM_UNLIKELY(key == 0))
            return false;
        hash1 = tm_hash_mix(hash1, key);
        hash2 = tm_hash_rotl(hash2, 23) + key * TM_HASH_K2;
        n++;
    }
    *ret = (struct tm_fingerprint){hash1, hash2};
    return true;
}

/* The cached node of a fingerprint, TM_NONE where there is none. */
TM_ALWAYS_INLINE uint32_t tm_traceback_cached(const struct tm_traceback_cache *cache,
                                              struct tm_fingerprint print)
{
    const struct tm_walk_slot *walk =
        &cache->walks[(print.hash1 >> 20 ^ print.hash1) & cache->walk_mask];
    if (TM_LIKELY(walk->hash1 == print.hash1 && walk->hash2 == print.hash2 &&
                  walk->epoch == cache->epoch))
        return walk->node;
    return TM_NONE;
}

/* Everything behind the most recent frame; `top` is that frame, `key` its key. */
static inline bool tm_traceback_walk(struct tm_traceback_cache *cache,
                                     const struct tm_layout *layout, tm_frame_ref top, uint64_t key,
                                     uint32_t limit, uint32_t *ret_node)
{
    struct tm_fingerprint print = {0, 0};
    if (tm_traceback_fingerprint(layout, top, key, limit, &print)) {
        *ret_node = tm_traceback_cached(cache, print);
        if (*ret_node != TM_NONE)
            return true;
    }
    return tm_traceback_walk_slow(cache, top, print.hash1, print.hash2, ret_node);
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
    return limit == 1 || tm_traceback_walk(cache, layout, frame, key, limit, &ret->node);
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
