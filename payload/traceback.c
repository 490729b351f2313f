// SPDX-License-Identifier: MIT
#include "payload/traceback.h"

#include <string.h>

#include "payload/code.h"
#include "payload/mem.h"
#include "payload/native/native.h"
#include "payload/tracer.h"

enum {
    GIL_WALKS = 8192,
    SHARED_WALKS = 1024,
    WALKS_MAX = 1 << 18,
};

struct tm_traceback_cache tm_traceback_caches[TM_LANES];
uint32_t tm_traceback_limit = 1;
_Atomic uint32_t tm_traceback_deaths;

static bool cache_init(struct tm_traceback_cache *cache, uint32_t walks)
{
    *cache = (struct tm_traceback_cache){.walk_mask = walks - 1, .epoch = 1};
    cache->deaths_seen = atomic_load_explicit(&tm_traceback_deaths, memory_order_relaxed);
    cache->sites = tm_mem_map_sparse(TM_SITE_SLOTS * sizeof(*cache->sites));
    cache->walks = tm_mem_map_sparse(walks * sizeof(*cache->walks));
    cache->path = tm_mem_map_sparse(TM_TRACEBACK_LIMIT_MAX * sizeof(*cache->path));
    return cache->sites && cache->walks && cache->path && tm_stack_init(&cache->stack);
}

static void cache_done(struct tm_traceback_cache *cache)
{
    if (cache->walk_mask == 0)
        return;
    tm_mem_unmap_sparse(cache->sites, TM_SITE_SLOTS * sizeof(*cache->sites));
    tm_mem_unmap_sparse(cache->walks, (cache->walk_mask + 1) * sizeof(*cache->walks));
    tm_mem_unmap_sparse(cache->path, TM_TRACEBACK_LIMIT_MAX * sizeof(*cache->path));
    tm_stack_done(&cache->stack);
    *cache = (struct tm_traceback_cache){0};
}

bool tm_traceback_init(void)
{
    tm_store.mark_freed = tm_traceback_code_died;
    bool ok = cache_init(&tm_traceback_caches[TM_LANE_GIL], GIL_WALKS);
    for (uint32_t lane = TM_LANE_SHARED; lane < tm_lanes_used && ok; lane++)
        ok = cache_init(&tm_traceback_caches[lane], SHARED_WALKS);
    if (!ok)
        tm_traceback_done();
    return ok;
}

void tm_traceback_done(void)
{
    for (int lane = 0; lane < TM_LANES; lane++)
        cache_done(&tm_traceback_caches[lane]);
}

size_t tm_traceback_resident_bytes(void)
{
    size_t total = 0;
    for (uint32_t lane = 0; lane < tm_lanes_used; lane++) {
        const struct tm_traceback_cache *cache = &tm_traceback_caches[lane];
        total += tm_mem_resident_bytes(cache->sites, TM_SITE_SLOTS * sizeof(*cache->sites), NULL);
        total += tm_mem_resident_bytes(cache->walks, (cache->walk_mask + 1) * sizeof(*cache->walks),
                                       NULL);
        if (cache->stack.entries != NULL)
            total += tm_stack_resident_bytes(&cache->stack);
    }
    return total;
}

void tm_traceback_abandon(void)
{
    memset(tm_traceback_caches, 0, sizeof(tm_traceback_caches));
}

/* The walks become stale at once, and so do the notes of native frames: a new epoch. The counter
 * wraps after 2^32 deaths, and then the tables are wiped, so that no ancient epoch comes back to
 * life. */
static void drop_walks(struct tm_traceback_cache *cache)
{
    cache->remembered = 0;
    if (++cache->epoch == 0) {
        memset(cache->walks, 0, (cache->walk_mask + 1) * sizeof(*cache->walks));
        tm_native_record_clear(&tm_native_lanes[cache - tm_traceback_caches].record);
        cache->epoch = 1;
    }
}

static void drop_all(struct tm_traceback_cache *cache)
{
    memset(cache->sites, 0, TM_SITE_SLOTS * sizeof(*cache->sites));
    tm_stack_clear(&cache->stack); /* the limit may be another one */
    drop_walks(cache);
}

void tm_traceback_flush(void)
{
    if (tm_traceback_caches[TM_LANE_GIL].sites != NULL)
        drop_all(&tm_traceback_caches[TM_LANE_GIL]);
    /* The others catch up before their next use: most of many lanes may be idle. */
    atomic_fetch_add_explicit(&tm_traceback_deaths, 1, memory_order_relaxed);
}

/* Code objects died that this lane did not see die, or all was flushed. */
__attribute__((noinline, cold)) void tm_traceback_catch_up(struct tm_traceback_cache *cache)
{
    cache->deaths_seen = atomic_load_explicit(&tm_traceback_deaths, memory_order_relaxed);
    drop_all(cache);
}

void tm_traceback_code_died(uint64_t code_addr, enum tm_lane lane)
{
    struct tm_traceback_cache *cache = &tm_traceback_caches[lane];
    uint32_t deaths = atomic_fetch_add_explicit(&tm_traceback_deaths, 1, memory_order_relaxed) + 1;
    uint64_t low, high;
    tm_frames_code_keys(code_addr, &low, &high);
    for (uint32_t i = 0; i < TM_SITE_SLOTS; i++)
        if (cache->sites[i].key - low < high - low)
            cache->sites[i].key = 0;
    /* Whether a frame is shown depends on its code: a place in other code that comes to lie there
     * must not be taken for the recorded one. */
    tm_stack_clear(&cache->stack);
    drop_walks(cache);
    if (cache->deaths_seen == deaths - 1)
        cache->deaths_seen = deaths;
}

__attribute__((noinline)) const struct tm_site_slot *
tm_traceback_site_slow(struct tm_traceback_cache *cache, tm_frame_ref frame, uint64_t key)
{
    struct tm_site_slot found = {.key = key, .site = TM_SITE_SKIP, .node = TM_NONE};
    uint64_t code = tm_frames_code(&tm_layout, frame);
    if (tm_frames_is_shown(&tm_layout, frame)) {
        pthread_mutex_lock(&tm_intern_lock);
        found.site = tm_code_site_locked(frame);
        if (found.site != TM_NONE)
            found.node = tm_intern_node_locked(0, found.site);
        pthread_mutex_unlock(&tm_intern_lock);
        if (found.site == TM_NONE || found.node == TM_NONE)
            return NULL;
        found.counter = tm_store_counter(TM_LANE_GIL, found.site);
        if (tm_code_is_own(found.site))
            found.site |= TM_SITE_OWN_BIT;
    }
    /* Without the mark a later code object at this address would inherit the lines. */
    struct tm_site_slot *slot = &cache->uncached;
    if (key != 0 && code != 0 && tm_store_mark(code))
        slot = &cache->sites[tm_traceback_site_index(key)];
    *slot = found;
    return slot;
}

/* The table grows when most of it has been written since the last time. */
static void grow_walks(struct tm_traceback_cache *cache)
{
    struct tm_traceback_cache old = *cache;
    uint32_t slots = (cache->walk_mask + 1) * 4;
    cache->remembered = 0;
    if (slots > WALKS_MAX)
        slots = WALKS_MAX;
    if (slots == cache->walk_mask + 1)
        return;
    struct tm_walk_slot *walks = tm_mem_map_sparse(slots * sizeof(*walks));
    if (walks == NULL)
        return;
    cache->walks = walks;
    cache->walk_mask = slots - 1;
    for (uint32_t i = 0; i <= old.walk_mask; i++)
        if (old.walks[i].hash1 != 0)
            *tm_traceback_walk_slot(cache, old.walks[i].hash1) = old.walks[i];
    tm_mem_unmap_sparse(old.walks, (old.walk_mask + 1) * sizeof(*walks));
}

void tm_traceback_remember(struct tm_traceback_cache *cache, struct tm_fingerprint print,
                           uint32_t node)
{
    if (++cache->remembered > (cache->walk_mask + 1) / 2)
        grow_walks(cache);
    /* What was here goes to the other slot: the older of the two is forgotten. */
    struct tm_walk_slot *walk = tm_traceback_walk_slot(cache, print.hash1);
    if (walk->hash1 != 0)
        *tm_traceback_walk_pair(walk) = *walk;
    *walk = (struct tm_walk_slot){print.hash1, tm_traceback_check(cache, print.hash2), node};
}

/* From the most recent recorded frame whose node is known upwards, where the traceback goes down to
 * where the record does. TM_NONE: memory is short, or that is not so. */
static uint32_t node_by_record(struct tm_traceback_cache *cache)
{
    struct tm_stack *stack = &cache->stack;
    struct tm_stack_entry *known = stack->top;
    if (known->count > stack->limit)
        return TM_NONE;
    if (stack->nodes_epoch != cache->epoch)
        tm_stack_forget_nodes(stack, cache->epoch);
    while (known->node == TM_NONE)
        known--;
    uint32_t node = known->node;
    for (struct tm_stack_entry *entry = known + 1; entry <= stack->top && node != TM_NONE;
         entry++) {
        if (entry->count != (entry - 1)->count) {
            const struct tm_site_slot *slot =
                tm_traceback_site(cache, entry->frame, tm_frames_key(&tm_layout, entry->frame));
            if (slot == NULL || slot->site == TM_SITE_SKIP)
                return TM_NONE;
            pthread_mutex_lock(&tm_intern_lock);
            node = tm_intern_node_locked(node, slot->site & ~TM_SITE_OWN_BIT);
            pthread_mutex_unlock(&tm_intern_lock);
        }
        entry->node = node;
    }
    return node;
}

__attribute__((noinline)) bool tm_traceback_walk_slow(struct tm_traceback_cache *cache,
                                                      tm_frame_ref top, struct tm_fingerprint print,
                                                      uint32_t *ret_node)
{
    uint32_t n = 0, limit = tm_traceback_limit;
    bool exact = print.hash1 != 0; /* what was hashed is what the traceback holds */
    if (exact && (*ret_node = node_by_record(cache)) != TM_NONE) {
        tm_traceback_remember(cache, print, *ret_node);
        return true;
    }
    for (tm_frame_ref frame = top; frame != 0 && n < limit;
         frame = tm_frames_back(&tm_layout, frame)) {
        if (tm_frames_is_shim(&tm_layout, frame))
            continue;
        uint64_t key = tm_frames_key(&tm_layout, frame);
        const struct tm_site_slot *slot = tm_traceback_site(cache, frame, key);
        if (slot == NULL)
            return false;
        if (key == 0)
            exact = false;
        if (slot->site != TM_SITE_SKIP)
            cache->path[n++] = slot->site & ~TM_SITE_OWN_BIT;
    }
    uint32_t node = tm_intern_path(cache->path, n);
    if (node == TM_NONE)
        return false;
    *ret_node = node;
    if (exact)
        tm_traceback_remember(cache, print, node);
    return true;
}
