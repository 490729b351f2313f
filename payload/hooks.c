// SPDX-License-Identifier: MIT
#include "payload/hooks.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "payload/filter.h"
#include "payload/sample.h"
#include "payload/store.h"
#include "payload/traceback.h"

enum { NESTED_SLOTS = 64 };

static struct tm_live no_live;
struct tm_live *tm_live = &no_live;

static struct tm_py_allocator originals[TM_PY_DOMAINS]; /* written while they are not in use */
static bool installed;                                  /* GIL */

/* The thread that is inside the allocator below an obj or mem hook of the GIL lane: its raw
 * allocations belong to the block that is being made. Written under the GIL. */
static _Atomic uintptr_t gil_guard;
/* The same for threads of the shared lane; slots are taken by compare-and-swap. */
static _Atomic uintptr_t nested[NESTED_SLOTS];
static _Atomic int nested_used;
/* Threads inside a hook of the shared lane, and those of them that touch the store. */
static _Atomic int inside, recording;

static uint64_t main_interp;      /* of the GIL lane; 0: all interpreters share one GIL */
static _Atomic bool foreign_seen; /* an interpreter with another GIL has allocated */
static uint64_t sample_bytes;

/* A probe: tm_hooks_reachable sets it to its thread, the hooks of that thread count. */
static _Atomic uintptr_t probe_thread;
static uint32_t probe_seen[TM_PY_DOMAINS];

static inline uintptr_t this_thread(void)
{
    uintptr_t self;
#if defined(__x86_64__)
    __asm__("mov %%fs:0, %0" : "=r"(self));
#elif defined(__aarch64__)
    __asm__("mrs %0, tpidr_el0" : "=r"(self));
#else
#error "no thread pointer known for this machine"
#endif
    return self;
}

/* ---- the shared lane ---- */

static bool nested_contains(uintptr_t self)
{
    if (atomic_load_explicit(&nested_used, memory_order_relaxed) == 0)
        return false;
    for (int i = 0; i < NESTED_SLOTS; i++)
        if (atomic_load_explicit(&nested[i], memory_order_relaxed) == self)
            return true;
    return false;
}

static int nested_enter(uintptr_t self)
{
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

/* The tstate of a thread that may or may not hold the GIL. Up to 3.11 the current tstate is
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

static bool traceback_of(enum tm_lane lane, uint64_t tstate, struct tm_traceback *ret)
{
    struct tm_traceback_cache *cache = &tm_traceback_caches[lane];
    switch (tm_layout_frame_kind) {
    case TM_FRAMES_OBJECT:
        return tm_traceback_get(cache, TM_FRAMES_OBJECT, tstate, ret);
    case TM_FRAMES_CFRAME:
        return tm_traceback_get(cache, TM_FRAMES_CFRAME, tstate, ret);
    default:
        return tm_traceback_get(cache, TM_FRAMES_DIRECT, tstate, ret);
    }
}

/* Begins to touch the store. False: tracing was switched off meanwhile. */
static bool shared_begin(void)
{
    atomic_fetch_add(&recording, 1);
    if (atomic_load(&tm_live->enabled))
        return true;
    atomic_fetch_sub(&recording, 1);
    return false;
}

static void shared_end(void)
{
    atomic_fetch_sub_explicit(&recording, 1, memory_order_release);
}

static __attribute__((noinline)) void shared_record(uint32_t domain, void *block, size_t size)
{
    struct tm_traceback traceback;
    uint64_t tstate = own_tstate();
    if (!shared_begin())
        return;
    pthread_mutex_lock(&tm_store_lock);
    if (sample_bytes != 0 && !tm_sample_take(TM_LANE_SHARED, size))
        ;
    else if (!traceback_of(TM_LANE_SHARED, tstate, &traceback))
        tm_store_count_dropped();
    else if (!(tm_intern_node_at(traceback.node)->flags & TM_NODE_EXCLUDED))
        tm_store_record(TM_LANE_SHARED, (uint64_t)block, size, domain, traceback.node,
                        traceback.site);
    pthread_mutex_unlock(&tm_store_lock);
    shared_end();
}

/* An unlocked look first: most blocks that are freed here were never ours. */
static __attribute__((noinline)) struct tm_taken shared_take(void *block)
{
    struct tm_taken taken = {0, 0};
    if (!shared_begin())
        return taken;
    uint64_t *slot = tm_shadow_find((uint64_t)block);
    if (slot != NULL && __atomic_load_n(slot, __ATOMIC_RELAXED) != 0) {
        pthread_mutex_lock(&tm_store_lock);
        taken = tm_store_take(TM_LANE_SHARED, (uint64_t)block);
        pthread_mutex_unlock(&tm_store_lock);
    }
    shared_end();
    return taken;
}

static void shared_unaccount(struct tm_taken taken)
{
    if (taken.entry == 0 || !shared_begin())
        return;
    pthread_mutex_lock(&tm_store_lock);
    tm_store_unaccount(TM_LANE_SHARED, taken);
    pthread_mutex_unlock(&tm_store_lock);
    shared_end();
}

static void shared_put_back(void *block, struct tm_taken taken)
{
    if (taken.entry == 0 || !shared_begin())
        return;
    pthread_mutex_lock(&tm_store_lock);
    tm_store_put_back((uint64_t)block, taken);
    pthread_mutex_unlock(&tm_store_lock);
    shared_end();
}

/* True where this call belongs to a block that a hook further up is making. */
static bool is_nested(uintptr_t self)
{
    return atomic_load_explicit(&gil_guard, memory_order_relaxed) == self || nested_contains(self);
}

static void probe(uintptr_t self, uint32_t domain)
{
    if (__builtin_expect(atomic_load_explicit(&probe_thread, memory_order_relaxed) == self, 0))
        probe_seen[domain]++;
}

/* The four calls, in any domain, by a thread of the shared lane. */
static void *shared_malloc(uint32_t domain, uintptr_t self, size_t size)
{
    atomic_fetch_add(&inside, 1);
    int slot = nested_enter(self);
    void *block = originals[domain].malloc(originals[domain].ctx, size);
    nested_leave(slot);
    if (block != NULL)
        shared_record(domain, block, size);
    atomic_fetch_sub(&inside, 1);
    return block;
}

static void *shared_calloc(uint32_t domain, uintptr_t self, size_t n, size_t size)
{
    atomic_fetch_add(&inside, 1);
    int slot = nested_enter(self);
    void *block = originals[domain].calloc(originals[domain].ctx, n, size);
    nested_leave(slot);
    if (block != NULL)
        shared_record(domain, block, n * size);
    atomic_fetch_sub(&inside, 1);
    return block;
}

static void *shared_realloc(uint32_t domain, uintptr_t self, void *old, size_t size)
{
    atomic_fetch_add(&inside, 1);
    struct tm_taken taken = old ? shared_take(old) : (struct tm_taken){0, 0};
    int slot = nested_enter(self);
    void *block = originals[domain].realloc(originals[domain].ctx, old, size);
    nested_leave(slot);
    if (block == NULL) {
        shared_put_back(old, taken);
    } else {
        shared_unaccount(taken);
        shared_record(domain, block, size);
    }
    atomic_fetch_sub(&inside, 1);
    return block;
}

static void shared_free(uint32_t domain, void *block)
{
    atomic_fetch_add(&inside, 1);
    shared_unaccount(shared_take(block));
    originals[domain].free(originals[domain].ctx, block);
    atomic_fetch_sub(&inside, 1);
}

/* ---- raw hooks ---- */

static bool raw_passes(uintptr_t self)
{
    return !atomic_load_explicit(&tm_live->enabled, memory_order_relaxed) || is_nested(self);
}

static void *raw_malloc(void *ctx, size_t size)
{
    uintptr_t self = this_thread();
    (void)ctx;
    probe(self, TM_PY_DOMAIN_RAW);
    if (raw_passes(self))
        return originals[TM_PY_DOMAIN_RAW].malloc(originals[TM_PY_DOMAIN_RAW].ctx, size);
    return shared_malloc(TM_PY_DOMAIN_RAW, self, size);
}

static void *raw_calloc(void *ctx, size_t n, size_t size)
{
    uintptr_t self = this_thread();
    (void)ctx;
    if (raw_passes(self))
        return originals[TM_PY_DOMAIN_RAW].calloc(originals[TM_PY_DOMAIN_RAW].ctx, n, size);
    return shared_calloc(TM_PY_DOMAIN_RAW, self, n, size);
}

static void *raw_realloc(void *ctx, void *old, size_t size)
{
    uintptr_t self = this_thread();
    (void)ctx;
    if (raw_passes(self))
        return originals[TM_PY_DOMAIN_RAW].realloc(originals[TM_PY_DOMAIN_RAW].ctx, old, size);
    return shared_realloc(TM_PY_DOMAIN_RAW, self, old, size);
}

static void raw_free(void *ctx, void *block)
{
    (void)ctx;
    if (block == NULL || raw_passes(this_thread()))
        originals[TM_PY_DOMAIN_RAW].free(originals[TM_PY_DOMAIN_RAW].ctx, block);
    else
        shared_free(TM_PY_DOMAIN_RAW, block);
}

/* ---- obj and mem hooks: under the GIL ---- */

__attribute__((always_inline)) static inline void
gil_record(enum tm_frame_kind kind, uint32_t domain, uint64_t tstate, void *block, size_t size)
{
    struct tm_traceback traceback;
    if (__builtin_expect(sample_bytes != 0, 0) && !tm_sample_take(TM_LANE_GIL, size))
        return;
    if (!tm_traceback_get(&tm_traceback_caches[TM_LANE_GIL], kind, tstate, &traceback)) {
        tm_store_count_dropped();
        return;
    }
    if (__builtin_expect(tm_filter_any(), 0) &&
        tm_intern_node_at(traceback.node)->flags & TM_NODE_EXCLUDED)
        return;
    tm_store_record(TM_LANE_GIL, (uint64_t)block, size, domain, traceback.node, traceback.site);
}

/* True where the interpreter of this thread has a GIL of its own (3.12 on). */
__attribute__((always_inline)) static inline bool is_foreign(uint64_t tstate)
{
    if (main_interp == 0 || tstate == 0)
        return false;
    if (__builtin_expect(tm_frames_load(tstate + (uint32_t)tm_layout.tstate_interp) == main_interp,
                         1))
        return false;
    atomic_store_explicit(&foreign_seen, true, memory_order_relaxed);
    return true;
}

__attribute__((always_inline)) static inline void *
gil_malloc(enum tm_frame_kind kind, uint32_t domain, size_t size)
{
    const struct tm_py_allocator *below = &originals[domain];
    uintptr_t self = this_thread();
    probe(self, domain);
    if (!atomic_load_explicit(&tm_live->enabled, memory_order_relaxed) || is_nested(self))
        return below->malloc(below->ctx, size);
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    if (__builtin_expect(is_foreign(tstate), 0))
        return shared_malloc(domain, self, size);
    atomic_store_explicit(&gil_guard, self, memory_order_relaxed);
    void *block = below->malloc(below->ctx, size);
    atomic_store_explicit(&gil_guard, 0, memory_order_relaxed);
    if (block != NULL)
        gil_record(kind, domain, tstate, block, size);
    return block;
}

__attribute__((always_inline)) static inline void *
gil_calloc(enum tm_frame_kind kind, uint32_t domain, size_t n, size_t size)
{
    const struct tm_py_allocator *below = &originals[domain];
    uintptr_t self = this_thread();
    if (!atomic_load_explicit(&tm_live->enabled, memory_order_relaxed) || is_nested(self))
        return below->calloc(below->ctx, n, size);
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    if (__builtin_expect(is_foreign(tstate), 0))
        return shared_calloc(domain, self, n, size);
    atomic_store_explicit(&gil_guard, self, memory_order_relaxed);
    void *block = below->calloc(below->ctx, n, size);
    atomic_store_explicit(&gil_guard, 0, memory_order_relaxed);
    if (block != NULL)
        gil_record(kind, domain, tstate, block, n * size);
    return block;
}

__attribute__((always_inline)) static inline void *
gil_realloc(enum tm_frame_kind kind, uint32_t domain, void *old, size_t size)
{
    const struct tm_py_allocator *below = &originals[domain];
    uintptr_t self = this_thread();
    if (!atomic_load_explicit(&tm_live->enabled, memory_order_relaxed) || is_nested(self))
        return below->realloc(below->ctx, old, size);
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    if (__builtin_expect(is_foreign(tstate), 0))
        return shared_realloc(domain, self, old, size);
    struct tm_taken taken =
        old ? tm_store_take(TM_LANE_GIL, (uint64_t)old) : (struct tm_taken){0, 0};
    atomic_store_explicit(&gil_guard, self, memory_order_relaxed);
    void *block = below->realloc(below->ctx, old, size);
    atomic_store_explicit(&gil_guard, 0, memory_order_relaxed);
    if (block == NULL) {
        if (taken.entry != 0)
            tm_store_put_back((uint64_t)old, taken);
        return NULL;
    }
    if (taken.entry != 0)
        tm_store_unaccount(TM_LANE_GIL, taken);
    gil_record(kind, domain, tstate, block, size);
    return block;
}

__attribute__((always_inline)) static inline void gil_free(uint32_t domain, void *block)
{
    const struct tm_py_allocator *below = &originals[domain];
    if (block != NULL && atomic_load_explicit(&tm_live->enabled, memory_order_relaxed)) {
        if (__builtin_expect(atomic_load_explicit(&foreign_seen, memory_order_relaxed), 0) &&
            is_foreign((uint64_t)tm_py.UncheckedGet())) {
            shared_free(domain, block);
            return;
        }
        tm_store_forget(TM_LANE_GIL, (uint64_t)block);
    }
    below->free(below->ctx, block);
}

#define DEFINE_HOOKS(suffix, kind, domain)                                                        \
    static void *malloc_##suffix(void *ctx, size_t size)                                          \
    {                                                                                             \
        (void)ctx;                                                                                \
        return gil_malloc(kind, domain, size);                                                    \
    }                                                                                             \
    static void *calloc_##suffix(void *ctx, size_t n, size_t size)                                \
    {                                                                                             \
        (void)ctx;                                                                                \
        return gil_calloc(kind, domain, n, size);                                                 \
    }                                                                                             \
    static void *realloc_##suffix(void *ctx, void *old, size_t size)                              \
    {                                                                                             \
        (void)ctx;                                                                                \
        return gil_realloc(kind, domain, old, size);                                              \
    }

DEFINE_HOOKS(object_mem, TM_FRAMES_OBJECT, TM_PY_DOMAIN_MEM)
DEFINE_HOOKS(object_obj, TM_FRAMES_OBJECT, TM_PY_DOMAIN_OBJ)
DEFINE_HOOKS(cframe_mem, TM_FRAMES_CFRAME, TM_PY_DOMAIN_MEM)
DEFINE_HOOKS(cframe_obj, TM_FRAMES_CFRAME, TM_PY_DOMAIN_OBJ)
DEFINE_HOOKS(direct_mem, TM_FRAMES_DIRECT, TM_PY_DOMAIN_MEM)
DEFINE_HOOKS(direct_obj, TM_FRAMES_DIRECT, TM_PY_DOMAIN_OBJ)

static void free_mem(void *ctx, void *block)
{
    (void)ctx;
    gil_free(TM_PY_DOMAIN_MEM, block);
}

static void free_obj(void *ctx, void *block)
{
    (void)ctx;
    gil_free(TM_PY_DOMAIN_OBJ, block);
}

/* ctx is filled in at installation. */
static const struct tm_py_allocator ours_by_kind[3][TM_PY_DOMAINS] = {
    [TM_FRAMES_OBJECT] = {{NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
                          {NULL, malloc_object_mem, calloc_object_mem, realloc_object_mem,
                           free_mem},
                          {NULL, malloc_object_obj, calloc_object_obj, realloc_object_obj,
                           free_obj}},
    [TM_FRAMES_CFRAME] = {{NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
                          {NULL, malloc_cframe_mem, calloc_cframe_mem, realloc_cframe_mem,
                           free_mem},
                          {NULL, malloc_cframe_obj, calloc_cframe_obj, realloc_cframe_obj,
                           free_obj}},
    [TM_FRAMES_DIRECT] = {{NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
                          {NULL, malloc_direct_mem, calloc_direct_mem, realloc_direct_mem,
                           free_mem},
                          {NULL, malloc_direct_obj, calloc_direct_obj, realloc_direct_obj,
                           free_obj}},
};

/* ---- installation ---- */

static struct tm_py_allocator ours(int domain)
{
    struct tm_py_allocator hook = ours_by_kind[tm_layout_frame_kind][domain];
    hook.ctx = originals[domain].ctx;
    return hook;
}

static bool same_functions(const struct tm_py_allocator *a, const struct tm_py_allocator *b)
{
    return a->malloc == b->malloc && a->calloc == b->calloc && a->realloc == b->realloc &&
           a->free == b->free;
}

static bool is_topmost(int domain)
{
    struct tm_py_allocator now, hook = ours(domain);
    tm_py.PyMem_GetAllocator(domain, &now);
    return same_functions(&now, &hook);
}

bool tm_hooks_setup(void)
{
    if (tm_live != &no_live)
        return true;
    int saved_errno = errno;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = page != MAP_FAILED && madvise(page, 4096, MADV_WIPEONFORK) == 0;
    if (ok)
        tm_live = page;
    else if (page != MAP_FAILED)
        munmap(page, 4096);
    errno = saved_errno;
    return ok;
}

/* Which of our hooks an allocation from the top passes through: a bit by domain. */
static uint32_t reachable_domains(void)
{
    uint32_t seen = 0;
    memset(probe_seen, 0, sizeof(probe_seen));
    atomic_store(&probe_thread, this_thread());
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++) {
        struct tm_py_allocator top;
        uint32_t before = probe_seen[domain];
        tm_py.PyMem_GetAllocator(domain, &top);
        void *block = top.malloc(top.ctx, 16);
        if (block != NULL)
            top.free(top.ctx, block);
        if (probe_seen[domain] != before)
            seen |= 1u << domain;
    }
    atomic_store(&probe_thread, 0);
    return seen;
}

bool tm_hooks_reachable(void)
{
    return installed && reachable_domains() == (1u << TM_PY_DOMAINS) - 1;
}

void tm_hooks_install(void)
{
    /* A domain whose hook is still in somebody's chain must not be hooked twice: the chain would
     * become a circle. */
    uint32_t reachable = installed ? reachable_domains() : 0;
    main_interp = 0;
    if (tm_py.version_hex >= 0x030c0000 && tm_py.PyInterpreterState_Main != NULL)
        main_interp = (uint64_t)tm_py.PyInterpreterState_Main();
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++) {
        if (reachable & 1u << domain)
            continue;
        struct tm_py_allocator hook;
        tm_py.PyMem_GetAllocator(domain, &originals[domain]);
        hook = ours(domain);
        tm_py.PyMem_SetAllocator(domain, &hook);
    }
    installed = true;
}

enum tm_unhook tm_hooks_remove(void)
{
    if (!installed)
        return TM_UNHOOK_RESTORED;
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++)
        if (!is_topmost(domain))
            return TM_UNHOOK_INERT;
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++)
        tm_py.PyMem_SetAllocator(domain, &originals[domain]);
    installed = false;
    return TM_UNHOOK_RESTORED;
}

void tm_hooks_start(uint64_t mean_sample_bytes)
{
    sample_bytes = mean_sample_bytes;
    atomic_store(&tm_live->enabled, 1);
}

void tm_hooks_stop(void)
{
    atomic_store(&tm_live->enabled, 0);
    while (atomic_load(&recording) != 0)
        sched_yield();
}

int tm_hooks_inside(void)
{
    return atomic_load(&inside);
}
