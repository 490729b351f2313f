// SPDX-License-Identifier: MIT
/*
 * The hooks of threads that do not hold the main interpreter's GIL: the raw
 * domain, and interpreters with a GIL of their own. Guarded by tm_store_lock,
 * which is never held while the allocator below runs.
 */
#include <pthread.h>
#include <sched.h>

#include "payload/hooks_lane.h"
#include "payload/sample.h"

enum { NESTED_SLOTS = 64 };

/* Threads that are inside the allocator below a hook of this lane. */
static _Atomic uintptr_t nested[NESTED_SLOTS];
static _Atomic int nested_used;
static _Atomic int inside, recording;

int tm_hooks_shared_inside(void)
{
    return atomic_load(&inside);
}

int tm_hooks_shared_recording(void)
{
    return atomic_load(&recording);
}

bool tm_hooks_is_nested(uintptr_t self)
{
    if (atomic_load_explicit(&tm_live->word, memory_order_relaxed) == self)
        return true;
    if (atomic_load_explicit(&nested_used, memory_order_relaxed) == 0)
        return false;
    for (int i = 0; i < NESTED_SLOTS; i++)
        if (atomic_load_explicit(&nested[i], memory_order_relaxed) == self)
            return true;
    return false;
}

static int nested_enter(uintptr_t self)
{
    atomic_fetch_add(&inside, 1);
    atomic_fetch_add(&nested_used, 1);
    for (int i = (int)(self >> 12);; i++) {
        uintptr_t nobody = 0;
        if (atomic_compare_exchange_strong(&nested[i & (NESTED_SLOTS - 1)], &nobody, self))
            return i & (NESTED_SLOTS - 1);
        sched_yield();
    }
}

static void nested_leave(int slot)
{
    atomic_store(&nested[slot], 0);
    atomic_fetch_sub(&nested_used, 1);
}

/* The tstate of a thread that may or may not hold a GIL. Up to 3.11 the current tstate is
 * process-wide, so that only the thread's own slot can be asked. */
static uint64_t own_tstate(void)
{
    tm_py_tstate *tstate = NULL;
    if (tm_py.version_hex >= 0x030c0000)
        tstate = tm_py.UncheckedGet();
    if (tstate == NULL)
        tstate = tm_py.PyGILState_GetThisThreadState();
    return (uint64_t)tstate;
}

/* Begins to touch the store. False: tracing was switched off meanwhile. */
static bool begin(void)
{
    atomic_fetch_add(&recording, 1);
    if (atomic_load(&tm_live->mode) != TM_WORD_OFF) {
        pthread_mutex_lock(&tm_store_lock);
        return true;
    }
    atomic_fetch_sub(&recording, 1);
    return false;
}

static void end(void)
{
    pthread_mutex_unlock(&tm_store_lock);
    atomic_fetch_sub(&recording, 1);
}

static void record(uint32_t domain, void *block, size_t size)
{
    struct tm_traceback_cache *cache = &tm_traceback_caches[TM_LANE_SHARED];
    struct tm_traceback traceback;
    uint64_t tstate = own_tstate();
    if (!begin())
        return;
    tm_traceback_refresh(cache);
    if (tm_store.sample_mean_bytes != 0 && !tm_sample_take(TM_LANE_SHARED, size))
        ;
    else if (!tm_traceback_get(cache, &tm_layout, tstate, &traceback))
        tm_store_count_dropped();
    else if (!(tm_intern_node_at(traceback.node)->flags & TM_NODE_EXCLUDED))
        tm_store_record(TM_LANE_SHARED, (uint64_t)block, size, domain, traceback.node);
    end();
}

static struct tm_taken take(void *block)
{
    struct tm_taken taken = {0, 0};
    if (block != NULL && begin()) {
        taken = tm_store_take(TM_LANE_SHARED, (uint64_t)block);
        end();
    }
    return taken;
}

static void unaccount(struct tm_taken taken)
{
    if (taken.entry != 0 && begin()) {
        tm_store_unaccount(TM_LANE_SHARED, taken);
        end();
    }
}

void *tm_hooks_shared_malloc(uint32_t domain, uintptr_t self, size_t size)
{
    int slot = nested_enter(self);
    void *block = tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);
    nested_leave(slot);
    if (block != NULL)
        record(domain, block, size);
    atomic_fetch_sub(&inside, 1);
    return block;
}

void *tm_hooks_shared_calloc(uint32_t domain, uintptr_t self, size_t n, size_t size)
{
    int slot = nested_enter(self);
    void *block = tm_hooks_below[domain].calloc(tm_hooks_below[domain].ctx, n, size);
    nested_leave(slot);
    if (block != NULL)
        record(domain, block, n * size);
    atomic_fetch_sub(&inside, 1);
    return block;
}

void *tm_hooks_shared_realloc(uint32_t domain, uintptr_t self, void *old, size_t size)
{
    int slot = nested_enter(self);
    struct tm_taken taken = take(old);
    void *block = tm_hooks_below[domain].realloc(tm_hooks_below[domain].ctx, old, size);
    nested_leave(slot);
    if (block != NULL) {
        unaccount(taken);
        record(domain, block, size);
    } else if (taken.entry != 0 && begin()) {
        tm_store_put_back((uint64_t)old, taken);
        end();
    }
    atomic_fetch_sub(&inside, 1);
    return block;
}

void tm_hooks_shared_free(uint32_t domain, void *block)
{
    atomic_fetch_add(&inside, 1);
    unaccount(take(block));
    tm_hooks_below[domain].free(tm_hooks_below[domain].ctx, block);
    atomic_fetch_sub(&inside, 1);
}

/* ---- the raw domain ---- */

static bool raw_passes(uintptr_t self)
{
    return atomic_load_explicit(&tm_live->mode, memory_order_relaxed) == TM_WORD_OFF ||
           tm_hooks_is_nested(self);
}

static void *raw_malloc(void *ctx, size_t size)
{
    uintptr_t self = tm_tstate_thread_pointer();
    (void)ctx;
    tm_hooks_probe(self, TM_PY_DOMAIN_RAW);
    if (raw_passes(self))
        return tm_hooks_below[TM_PY_DOMAIN_RAW].malloc(tm_hooks_below[TM_PY_DOMAIN_RAW].ctx, size);
    return tm_hooks_shared_malloc(TM_PY_DOMAIN_RAW, self, size);
}

static void *raw_calloc(void *ctx, size_t n, size_t size)
{
    uintptr_t self = tm_tstate_thread_pointer();
    (void)ctx;
    if (raw_passes(self))
        return tm_hooks_below[TM_PY_DOMAIN_RAW].calloc(tm_hooks_below[TM_PY_DOMAIN_RAW].ctx, n,
                                                       size);
    return tm_hooks_shared_calloc(TM_PY_DOMAIN_RAW, self, n, size);
}

static void *raw_realloc(void *ctx, void *old, size_t size)
{
    uintptr_t self = tm_tstate_thread_pointer();
    (void)ctx;
    if (raw_passes(self))
        return tm_hooks_below[TM_PY_DOMAIN_RAW].realloc(tm_hooks_below[TM_PY_DOMAIN_RAW].ctx, old,
                                                        size);
    return tm_hooks_shared_realloc(TM_PY_DOMAIN_RAW, self, old, size);
}

static void raw_free(void *ctx, void *block)
{
    (void)ctx;
    if (block == NULL || raw_passes(tm_tstate_thread_pointer()))
        tm_hooks_below[TM_PY_DOMAIN_RAW].free(tm_hooks_below[TM_PY_DOMAIN_RAW].ctx, block);
    else
        tm_hooks_shared_free(TM_PY_DOMAIN_RAW, block);
}

const struct tm_py_allocator tm_hooks_raw = {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free};
