// SPDX-License-Identifier: MIT
/*
 * The hooks of threads that do not hold the main interpreter's GIL: the raw
 * domain, interpreters with a GIL of their own, and in a free-threaded build all
 * three domains. Guarded by the lock of the thread's lane, which is never held
 * while the allocator below runs.
 *
 * A free-threaded build has no lock that all threads take: each has a seat, found
 * by its thread pointer without a lock, and the first TM_SHARED_LANES seats have a
 * lane each to themselves. Nothing here needs the world to stop: with the lanes'
 * locks held no thread can record or forget a block, attached or not.
 */
#include <pthread.h>

#include "payload/gil.h"
#include "payload/hooks_lane.h"
#include "payload/native/native.h"
#include "payload/sample.h"

enum { NESTED_SLOTS = 64, SEATS = 256, SEAT_PROBES = 16, CACHE_LINE_BYTES = 64 };

/* A thread of a free-threaded build. The seat of one that has ended stays its own: the C library
 * gives its thread pointer to the next one that starts, as a rule. */
struct seat {
    _Atomic uintptr_t thread; /* 0: nobody's yet */
    _Atomic uint32_t lane;    /* 0: the owner has just sat down */
    uint32_t depth;           /* allocators below our hooks that it is inside of; the owner's */
} __attribute__((aligned(CACHE_LINE_BYTES)));

/* Who calls a hook. */
struct caller {
    uintptr_t thread;
    enum tm_lane lane;
    struct seat *seat; /* NULL: none, see `nested` */
};

/* Threads that are inside a hook of a lane, and those of them that touch the store. */
struct activity {
    _Atomic int inside, recording;
} __attribute__((aligned(CACHE_LINE_BYTES)));

static struct seat seats[SEATS];
static _Atomic uint32_t seats_taken;
static struct activity activity[TM_LANES];

/* Threads without a seat that are inside the allocator below a hook of theirs. */
static _Atomic uintptr_t nested[NESTED_SLOTS];
static _Atomic int nested_used;

uint32_t tm_hooks_session;

int tm_hooks_shared_inside(void)
{
    int inside = 0;
    for (uint32_t lane = 0; lane < TM_LANES; lane++)
        inside += atomic_load(&activity[lane].inside);
    return inside;
}

int tm_hooks_shared_recording(void)
{
    int recording = 0;
    for (uint32_t lane = 0; lane < TM_LANES; lane++)
        recording += atomic_load(&activity[lane].recording);
    return recording;
}

/* ---- seats ---- */

static __attribute__((noinline, cold)) struct seat *sit_down(struct seat *seat)
{
    uint32_t number = atomic_fetch_add(&seats_taken, 1);
    seat->depth = 0;
    atomic_store(&seat->lane, TM_LANE_SHARED + number % TM_SHARED_LANES);
    return seat;
}

/* NULL where all seats are taken that a thread with this pointer may have; it has none then for
 * good, because seats are not given up. */
static struct seat *seat_of(uintptr_t thread)
{
    uint32_t start = (uint32_t)(thread >> 12) * 0x9e3779b1u >> 24;
    for (uint32_t i = start; i < start + SEAT_PROBES; i++) {
        struct seat *seat = &seats[i & (SEATS - 1)];
        uintptr_t owner = atomic_load_explicit(&seat->thread, memory_order_relaxed);
        if (TM_LIKELY(owner == thread))
            return seat;
        if (owner == 0 && atomic_compare_exchange_strong(&seat->thread, &owner, thread))
            return sit_down(seat);
    }
    return NULL;
}

TM_ALWAYS_INLINE struct caller caller_of(uintptr_t thread)
{
    struct caller caller = {thread, TM_LANE_SHARED, NULL};
    if (TM_LIKELY(!tm_py.free_threaded))
        return caller;
    caller.seat = seat_of(thread);
    if (TM_LIKELY(caller.seat != NULL))
        caller.lane = (enum tm_lane)atomic_load_explicit(&caller.seat->lane, memory_order_relaxed);
    else
        caller.lane = (enum tm_lane)(TM_LANE_SHARED + (thread >> 12) % TM_SHARED_LANES);
    return caller;
}

/* ---- what a hook's allocator below takes from another hook belongs to the block in hand ---- */

static bool is_nested(const struct caller *caller)
{
    if (caller->seat != NULL)
        return caller->seat->depth != 0;
    if (atomic_load_explicit(&nested_used, memory_order_relaxed) == 0)
        return false;
    for (int i = 0; i < NESTED_SLOTS; i++)
        if (atomic_load_explicit(&nested[i], memory_order_relaxed) == caller->thread)
            return true;
    return false;
}

bool tm_hooks_is_nested(uintptr_t self)
{
    struct caller caller = caller_of(self);
    return atomic_load_explicit(&tm_live->word, memory_order_relaxed) == self || is_nested(&caller);
}

/* -1: all slots are taken. Waiting for one could be for ever: an allocator below may wait for the
 * GIL (tracemalloc's raw one does) that this thread holds. Without a slot a nested allocation is
 * recorded and then replaced by the outer one at the same address: the totals stay exact. */
static int nested_enter(const struct caller *caller)
{
    if (caller->seat != NULL) {
        caller->seat->depth++;
        return -1;
    }
    unsigned start = (unsigned)(caller->thread >> 12);
    atomic_fetch_add(&nested_used, 1);
    for (unsigned i = start; i < start + NESTED_SLOTS; i++) {
        uintptr_t nobody = 0;
        if (atomic_compare_exchange_strong(&nested[i & (NESTED_SLOTS - 1)], &nobody,
                                           caller->thread))
            return (int)(i & (NESTED_SLOTS - 1));
    }
    return -1;
}

static void nested_leave(const struct caller *caller, int slot)
{
    if (caller->seat != NULL) {
        caller->seat->depth--;
        return;
    }
    if (slot >= 0)
        atomic_store(&nested[slot], 0);
    atomic_fetch_sub(&nested_used, 1);
}

int tm_hooks_own_begin(void)
{
    struct caller caller = caller_of(tm_tstate_thread_pointer());
    return nested_enter(&caller);
}

void tm_hooks_own_end(int slot)
{
    struct caller caller = caller_of(tm_tstate_thread_pointer());
    nested_leave(&caller, slot);
}

int tm_hooks_gil_take(int *ret_gil)
{
    int own = tm_hooks_own_begin();
    int status = tm_gil_take(ret_gil);
    tm_hooks_own_end(own);
    return status;
}

void tm_hooks_gil_drop(int gil)
{
    int own = tm_hooks_own_begin();
    tm_gil_drop(gil);
    tm_hooks_own_end(own);
}

void tm_hooks_shared_forget_threads(void)
{
    for (int i = 0; i < NESTED_SLOTS; i++)
        atomic_store(&nested[i], 0);
    atomic_store(&nested_used, 0);
    for (int i = 0; i < SEATS; i++) {
        atomic_store(&seats[i].thread, 0);
        seats[i].depth = 0;
    }
    atomic_store(&seats_taken, 0);
    for (uint32_t lane = 0; lane < TM_LANES; lane++) {
        atomic_store(&activity[lane].inside, 0);
        atomic_store(&activity[lane].recording, 0);
    }
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
static bool begin(enum tm_lane lane)
{
    atomic_fetch_add(&activity[lane].recording, 1);
    if (atomic_load(&tm_live->mode) != TM_WORD_OFF) {
        tm_lane_take(lane);
        return true;
    }
    atomic_fetch_sub(&activity[lane].recording, 1);
    return false;
}

static void end(enum tm_lane lane)
{
    tm_lane_drop(lane);
    atomic_fetch_sub(&activity[lane].recording, 1);
}

static void record(const struct caller *caller, uint32_t domain, void *block, size_t size)
{
    enum tm_lane lane = caller->lane;
    struct tm_traceback_cache *cache = &tm_traceback_caches[lane];
    struct tm_traceback traceback;
    uint64_t tstate = own_tstate();
    if (!begin(lane))
        return;
    tm_traceback_refresh(cache);
    if (tm_store.sample_mean_bytes != 0 && !tm_sample_take(lane, size))
        ;
    else if (!(tm_native_depth != 0 ? tm_native_traceback(lane, tstate, &traceback)
                                    : tm_traceback_get(cache, &tm_layout, tstate, &traceback)))
        tm_traceback_not_traced(cache);
    else if (!(tm_intern_node_at(traceback.node)->flags & TM_NODE_EXCLUDED))
        tm_store_record(lane, (uint64_t)block, size, domain, traceback.node);
    end(lane);
}

static void forget(const struct caller *caller, void *block)
{
    if (begin(caller->lane)) {
        tm_store_forget(caller->lane, (uint64_t)block);
        end(caller->lane);
    }
}

/* A block on its way through realloc. Tracing may be switched off and on again meanwhile: then what
 * was lifted belongs to a store that is gone. */
struct lifted {
    struct tm_taken taken;
    uint32_t session;
};

static struct lifted lift(const struct caller *caller, void *block)
{
    struct lifted lifted = {{0, 0}, 0};
    if (block != NULL && begin(caller->lane)) {
        lifted = (struct lifted){tm_store_lift(caller->lane, (uint64_t)block), tm_hooks_session};
        end(caller->lane);
    }
    return lifted;
}

static void drop_back(const struct caller *caller, void *block, struct lifted lifted)
{
    if (lifted.taken.entry != 0 && begin(caller->lane)) {
        if (lifted.session == tm_hooks_session)
            tm_store_drop_back(caller->lane, (uint64_t)block, lifted.taken);
        end(caller->lane);
    }
}

/* ---- the four calls ---- */

static void *call_malloc(const struct caller *caller, uint32_t domain, size_t size)
{
    atomic_fetch_add(&activity[caller->lane].inside, 1);
    int slot = nested_enter(caller);
    void *block = tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);
    nested_leave(caller, slot);
    if (block != NULL)
        record(caller, domain, block, size);
    atomic_fetch_sub(&activity[caller->lane].inside, 1);
    return block;
}

static void *call_calloc(const struct caller *caller, uint32_t domain, size_t n, size_t size)
{
    atomic_fetch_add(&activity[caller->lane].inside, 1);
    int slot = nested_enter(caller);
    void *block = tm_hooks_below[domain].calloc(tm_hooks_below[domain].ctx, n, size);
    nested_leave(caller, slot);
    if (block != NULL)
        record(caller, domain, block, n * size);
    atomic_fetch_sub(&activity[caller->lane].inside, 1);
    return block;
}

static void *call_realloc(const struct caller *caller, uint32_t domain, void *old, size_t size)
{
    atomic_fetch_add(&activity[caller->lane].inside, 1);
    struct lifted lifted = lift(caller, old);
    int slot = nested_enter(caller);
    void *block = tm_hooks_below[domain].realloc(tm_hooks_below[domain].ctx, old, size);
    nested_leave(caller, slot);
    if (block != NULL)
        record(caller, domain, block, size);
    else
        drop_back(caller, old, lifted);
    atomic_fetch_sub(&activity[caller->lane].inside, 1);
    return block;
}

static void call_free(const struct caller *caller, uint32_t domain, void *block)
{
    atomic_fetch_add(&activity[caller->lane].inside, 1);
    forget(caller, block);
    tm_hooks_below[domain].free(tm_hooks_below[domain].ctx, block);
    atomic_fetch_sub(&activity[caller->lane].inside, 1);
}

void *tm_hooks_shared_malloc(uint32_t domain, uintptr_t self, size_t size)
{
    struct caller caller = caller_of(self);
    return call_malloc(&caller, domain, size);
}

void *tm_hooks_shared_calloc(uint32_t domain, uintptr_t self, size_t n, size_t size)
{
    struct caller caller = caller_of(self);
    return call_calloc(&caller, domain, n, size);
}

void *tm_hooks_shared_realloc(uint32_t domain, uintptr_t self, void *old, size_t size)
{
    struct caller caller = caller_of(self);
    return call_realloc(&caller, domain, old, size);
}

void tm_hooks_shared_free(uint32_t domain, void *block)
{
    struct caller caller = caller_of(tm_tstate_thread_pointer());
    call_free(&caller, domain, block);
}

/* ---- the hooks: the raw domain, and all three of a free-threaded build ---- */

/* A hook that passes through, in a process that may be a forked child, may have to tell of it. The
 * raw one may have no thread state at hand. */
TM_ALWAYS_INLINE bool passes(const struct caller *caller, uint32_t domain)
{
    if (TM_UNLIKELY(atomic_load_explicit(&tm_live->mode, memory_order_relaxed) == TM_WORD_OFF)) {
        if (domain != TM_PY_DOMAIN_RAW && tm_live->known == 0)
            tm_hooks_look_for_fork();
        return true;
    }
    return atomic_load_explicit(&tm_live->word, memory_order_relaxed) == caller->thread ||
           is_nested(caller);
}

#define DEFINE_HOOKS(name, domain)                                                                 \
    static void *name##_malloc(void *ctx, size_t size)                                             \
    {                                                                                              \
        struct caller caller = caller_of(tm_tstate_thread_pointer());                              \
        (void)ctx;                                                                                 \
        tm_hooks_probe(caller.thread, domain);                                                     \
        if (passes(&caller, domain))                                                               \
            return tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);                \
        return call_malloc(&caller, domain, size);                                                 \
    }                                                                                              \
    static void *name##_calloc(void *ctx, size_t n, size_t size)                                   \
    {                                                                                              \
        struct caller caller = caller_of(tm_tstate_thread_pointer());                              \
        (void)ctx;                                                                                 \
        if (passes(&caller, domain))                                                               \
            return tm_hooks_below[domain].calloc(tm_hooks_below[domain].ctx, n, size);             \
        return call_calloc(&caller, domain, n, size);                                              \
    }                                                                                              \
    static void *name##_realloc(void *ctx, void *old, size_t size)                                 \
    {                                                                                              \
        struct caller caller = caller_of(tm_tstate_thread_pointer());                              \
        (void)ctx;                                                                                 \
        if (passes(&caller, domain))                                                               \
            return tm_hooks_below[domain].realloc(tm_hooks_below[domain].ctx, old, size);          \
        return call_realloc(&caller, domain, old, size);                                           \
    }                                                                                              \
    static void name##_free(void *ctx, void *block)                                                \
    {                                                                                              \
        struct caller caller = caller_of(tm_tstate_thread_pointer());                              \
        (void)ctx;                                                                                 \
        if (block == NULL || passes(&caller, domain))                                              \
            tm_hooks_below[domain].free(tm_hooks_below[domain].ctx, block);                        \
        else                                                                                       \
            call_free(&caller, domain, block);                                                     \
    }

DEFINE_HOOKS(raw, TM_PY_DOMAIN_RAW)
DEFINE_HOOKS(mem, TM_PY_DOMAIN_MEM)
DEFINE_HOOKS(obj, TM_PY_DOMAIN_OBJ)

const struct tm_py_allocator tm_hooks_shared[TM_PY_DOMAINS] = {
    {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
    {NULL, mem_malloc, mem_calloc, mem_realloc, mem_free},
    {NULL, obj_malloc, obj_calloc, obj_realloc, obj_free},
};
