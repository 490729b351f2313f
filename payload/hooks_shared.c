// SPDX-License-Identifier: MIT
/*
 * The hooks of threads that do not hold the main interpreter's GIL: the raw
 * domain, and interpreters with a GIL of their own. Guarded by tm_store_lock,
 * which is never held while the allocator below runs.
 */
#include <pthread.h>

#include "payload/hooks_lane.h"
#include "payload/native/native.h"
#include "payload/sample.h"

enum { NESTED_SLOTS = 64 };

/* Threads that are inside the allocator below a hook of this lane. */
static _Atomic uintptr_t nested[NESTED_SLOTS];
static _Atomic int nested_used;
static _Atomic int inside, recording;

uint32_t tm_hooks_session;

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

/* -1: all slots are taken. Waiting for one could be for ever: an allocator below may wait for the
 * GIL (tracemalloc's raw one does) that this thread holds. Without a slot a nested allocation is
 * recorded and then replaced by the outer one at the same address: the totals stay exact. */
static int nested_enter(uintptr_t self)
{
    unsigned start = (unsigned)(self >> 12);
    atomic_fetch_add(&nested_used, 1);
    for (unsigned i = start; i < start + NESTED_SLOTS; i++) {
        uintptr_t nobody = 0;
        if (atomic_compare_exchange_strong(&nested[i & (NESTED_SLOTS - 1)], &nobody, self))
            return (int)(i & (NESTED_SLOTS - 1));
    }
    return -1;
}

static void nested_leave(int slot)
{
    if (slot >= 0)
        atomic_store(&nested[slot], 0);
    atomic_fetch_sub(&nested_used, 1);
}

int tm_hooks_own_begin(void)
{
    return nested_enter(tm_tstate_thread_pointer());
}

void tm_hooks_own_end(int slot)
{
    nested_leave(slot);
}

void tm_hooks_shared_forget_threads(void)
{
    for (int i = 0; i < NESTED_SLOTS; i++)
        atomic_store(&nested[i], 0);
    atomic_store(&nested_used, 0);
    atomic_store(&inside, 0);
    atomic_store(&recording, 0);
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
    else if (!(tm_native_depth != 0 ? tm_native_traceback(TM_LANE_SHARED, tstate, &traceback)
                                    : tm_traceback_get(cache, &tm_layout, tstate, &traceback)))
        tm_traceback_not_traced(cache);
    else if (!(tm_intern_node_at(traceback.node)->flags & TM_NODE_EXCLUDED))
        tm_store_record(TM_LANE_SHARED, (uint64_t)block, size, domain, traceback.node);
    end();
}

static void forget(void *block)
{
    if (begin()) {
        tm_store_forget(TM_LANE_SHARED, (uint64_t)block);
        end();
    }
}

/* A block on its way through realloc. Tracing may be switched off and on again meanwhile: then what
 * was lifted belongs to a store that is gone. */
struct lifted {
    struct tm_taken taken;
    uint32_t session;
};

static struct lifted lift(void *block)
{
    struct lifted lifted = {{0, 0}, 0};
    if (block != NULL && begin()) {
        lifted = (struct lifted){tm_store_lift(TM_LANE_SHARED, (uint64_t)block), tm_hooks_session};
        end();
    }
    return lifted;
}

static void drop_back(void *block, struct lifted lifted)
{
    if (lifted.taken.entry != 0 && begin()) {
        if (lifted.session == tm_hooks_session)
            tm_store_drop_back(TM_LANE_SHARED, (uint64_t)block, lifted.taken);
        end();
    }
}

void *tm_hooks_shared_malloc(uint32_t domain, uintptr_t self, size_t size)
{
    atomic_fetch_add(&inside, 1);
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
    atomic_fetch_add(&inside, 1);
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
    atomic_fetch_add(&inside, 1);
    struct lifted lifted = lift(old);
    int slot = nested_enter(self);
    void *block = tm_hooks_below[domain].realloc(tm_hooks_below[domain].ctx, old, size);
    nested_leave(slot);
    if (block != NULL)
        record(domain, block, size);
    else
        drop_back(old, lifted);
    atomic_fetch_sub(&inside, 1);
    return block;
}

void tm_hooks_shared_free(uint32_t domain, void *block)
{
    atomic_fetch_add(&inside, 1);
    forget(block);
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
