// SPDX-License-Identifier: MIT
/*
 * The obj and mem hooks of the main interpreter, whose GIL is their lock: the
 * hottest code there is. Each hook is compiled once for every row of
 * payload/layout_table.h, with constant offsets, and falls back on the slow
 * half (any layout, every check) unless tm_live->word says that nothing special
 * is going on.
 */
#include "payload/filter.h"
#include "payload/hooks_fast.h"
#include "payload/layout_table.h"
#include "payload/native/native.h"
#include "payload/sample.h"

#define SMALL_REQUEST_BYTES 512 /* pymalloc's: what is larger nests a raw allocation */

/* ---- the slow half ---- */

/* True where the interpreter of this thread has a GIL of its own (3.12 on). */
static bool is_foreign(uint64_t tstate)
{
    if (tm_hooks_main_interp == 0 || tstate == 0 ||
        tm_hooks_is_main(tstate, tm_layout.tstate_interp))
        return false;
    atomic_store_explicit(&tm_hooks_foreign_seen, true, memory_order_relaxed);
    return true;
}

static bool passes(uintptr_t self)
{
    if (atomic_load_explicit(&tm_live->mode, memory_order_relaxed) == TM_WORD_OFF) {
        if (TM_UNLIKELY(tm_live->known == 0))
            tm_hooks_look_for_fork();
        return true;
    }
    return tm_hooks_is_nested(self);
}

/* Where our own work goes on, see tm_hooks_mute_here; 0: nowhere. */
static uint64_t muted_tstate;
static tm_frame_ref muted_frame;

void tm_hooks_mute_here(void)
{
    muted_tstate = (uint64_t)tm_py.UncheckedGet();
    muted_frame = tm_frames_top(&tm_layout, muted_tstate);
    tm_hooks_choose_half();
}

void tm_hooks_unmute(void)
{
    muted_tstate = 0;
    tm_hooks_choose_half();
}

bool tm_hooks_is_muted(void)
{
    return muted_tstate != 0;
}

static __attribute__((noinline)) void slow_record(uint32_t domain, uint64_t tstate, void *block,
                                                  size_t size)
{
    struct tm_traceback traceback;
    if (TM_UNLIKELY(muted_tstate != 0 && tstate == muted_tstate) &&
        tm_frames_top(&tm_layout, tstate) == muted_frame)
        return;
    if (tm_store.sample_mean_bytes != 0 && !tm_sample_take(TM_LANE_GIL, size))
        return;
    if (!(tm_native_depth != 0 ? tm_native_traceback(TM_LANE_GIL, tstate, &traceback)
                               : tm_traceback_get(&tm_traceback_caches[TM_LANE_GIL], &tm_layout,
                                                  tstate, &traceback)))
        tm_traceback_not_traced(&tm_traceback_caches[TM_LANE_GIL]);
    else if (!(tm_intern_node_at(traceback.node)->flags & TM_NODE_EXCLUDED))
        tm_store_record(TM_LANE_GIL, (uint64_t)block, size, domain, traceback.node);
}

static __attribute__((noinline)) void *slow_malloc(uint32_t domain, size_t size)
{
    const struct tm_py_allocator *below = &tm_hooks_below[domain];
    uintptr_t self = tm_tstate_thread_pointer();
    tm_hooks_probe(self, domain);
    if (passes(self))
        return below->malloc(below->ctx, size);
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    if (is_foreign(tstate))
        return tm_hooks_shared_malloc(domain, self, size);
    tm_hooks_enter(self);
    void *block = below->malloc(below->ctx, size);
    tm_hooks_leave();
    if (block != NULL)
        slow_record(domain, tstate, block, size);
    return block;
}

static __attribute__((noinline)) void *slow_calloc(uint32_t domain, size_t n, size_t size)
{
    const struct tm_py_allocator *below = &tm_hooks_below[domain];
    uintptr_t self = tm_tstate_thread_pointer();
    if (passes(self))
        return below->calloc(below->ctx, n, size);
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    if (is_foreign(tstate))
        return tm_hooks_shared_calloc(domain, self, n, size);
    tm_hooks_enter(self);
    void *block = below->calloc(below->ctx, n, size);
    tm_hooks_leave();
    if (block != NULL)
        slow_record(domain, tstate, block, n * size);
    return block;
}

static __attribute__((noinline)) void *slow_realloc(uint32_t domain, void *old, size_t size)
{
    const struct tm_py_allocator *below = &tm_hooks_below[domain];
    uintptr_t self = tm_tstate_thread_pointer();
    if (passes(self))
        return below->realloc(below->ctx, old, size);
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    if (is_foreign(tstate))
        return tm_hooks_shared_realloc(domain, self, old, size);
    void *block = tm_hooks_realloc_below(domain, self, old, size);
    if (block != NULL)
        slow_record(domain, tstate, block, size);
    return block;
}

static __attribute__((noinline)) void slow_free(uint32_t domain, void *block)
{
    const struct tm_py_allocator *below = &tm_hooks_below[domain];
    uintptr_t self = tm_tstate_thread_pointer();
    if (block == NULL || passes(self)) {
        below->free(below->ctx, block);
        return;
    }
    if (atomic_load_explicit(&tm_hooks_foreign_seen, memory_order_relaxed) &&
        is_foreign((uint64_t)tm_py.UncheckedGet())) {
        tm_hooks_shared_free(domain, block);
        return;
    }
    tm_store_forget(TM_LANE_GIL, (uint64_t)block);
    tm_hooks_enter(self);
    below->free(below->ctx, block);
    tm_hooks_leave();
}

/* ---- the fast half ---- */

/*
 * It calls nothing but the allocator below, so that the compiler keeps almost
 * everything in registers; whatever is not at hand (a cache miss, a missing
 * table, a crossing) is left to a function of the slow half, as the last thing.
 */

/* The node of a frame and those behind it from the caches alone, TM_NONE where they have none: a
 * function by layout, so that tracebacks of one frame need none of its registers. */
typedef uint32_t deep_fn(tm_frame_ref frame);

TM_ALWAYS_INLINE uint32_t deep_node(const struct tm_layout *layout, tm_stack_follow_fn *follow,
                                    tm_frame_ref frame)
{
    struct tm_fingerprint print;
    if (TM_UNLIKELY(tm_traceback_limit == 0))
        return TM_NONE;
    return tm_traceback_node(&tm_traceback_caches[TM_LANE_GIL], layout, follow, frame,
                             tm_traceback_limit, &print);
}

/* The traceback from the caches alone. */
TM_ALWAYS_INLINE bool fast_traceback(const struct tm_layout *layout, deep_fn *deep,
                                     struct tm_traceback *ret)
{
    const struct tm_traceback_cache *cache = &tm_traceback_caches[TM_LANE_GIL];
    uint64_t tstate = tm_fast_tstate(layout);
    if (layout->py_version < 0x030c && TM_UNLIKELY(tstate == 0))
        return false; /* later: is_main has looked */
    tm_frame_ref frame = tm_frames_top(layout, tstate);
    for (; TM_LIKELY(frame != 0); frame = tm_frames_back(layout, frame)) {
        if (tm_frames_is_shim(layout, frame))
            continue;
        uint64_t key = tm_frames_key(layout, frame);
        const struct tm_site_slot *slot = &cache->sites[tm_traceback_site_index(key)];
        if (TM_UNLIKELY(slot->key != key || (tm_frames_are_objects(layout) && key == 0)))
            return false;
        if (TM_UNLIKELY(slot->site >= TM_SITE_OWN_BIT)) {
            if (slot->site == TM_SITE_SKIP)
                continue;
            return false;
        }
        ret->node = slot->node;
        ret->counter = slot->counter;
        if (tm_traceback_limit == 1)
            return true;
        ret->node = deep(frame);
        return TM_LIKELY(ret->node != TM_NONE);
    }
    return false;
}

__attribute__((noinline, cold)) void *tm_fast_crossed(void *block)
{
    tm_store.window_crossed();
    return block;
}

static __attribute__((noinline, cold)) void crossed_free(uint32_t domain, void *block)
{
    tm_store.window_crossed();
    tm_hooks_below[domain].free(tm_hooks_below[domain].ctx, block);
}

/* The allocation is done; the record is left to the slow half. */
static __attribute__((noinline)) void *finish_slowly(uint32_t domain, void *block, size_t size)
{
    slow_record(domain, (uint64_t)tm_py.UncheckedGet(), block, size);
    return block;
}

/* Records a block that was allocated, and gives it back. */
TM_ALWAYS_INLINE void *fast_finish(const struct tm_layout *layout, deep_fn *deep, uint32_t domain,
                                   void *block, size_t size)
{
    struct tm_traceback traceback;
    if (TM_UNLIKELY(block == NULL))
        return NULL;
    uint64_t *slot = tm_shadow_find_shift((uint64_t)block, tm_fast_granule_shift(layout));
    if (TM_UNLIKELY(slot == NULL || *slot != 0 || size >= TM_SIZE_OVERFLOW ||
                    !fast_traceback(layout, deep, &traceback)))
        return finish_slowly(domain, block, size);
    return tm_fast_record(domain, block, size, slot, traceback);
}

TM_ALWAYS_INLINE void *fast_malloc(const struct tm_layout *layout, deep_fn *deep, uint32_t domain,
                                   size_t size)
{
    if (!tm_fast_is_on() || !tm_fast_is_main(layout))
        return slow_malloc(domain, size);
    tm_hooks_enter(tm_tstate_thread_pointer());
    void *block = tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);
    tm_hooks_leave();
    return fast_finish(layout, deep, domain, block, size);
}

TM_ALWAYS_INLINE void *fast_calloc(const struct tm_layout *layout, deep_fn *deep, uint32_t domain,
                                   size_t n, size_t size)
{
    if (!tm_fast_is_on() || !tm_fast_is_main(layout))
        return slow_calloc(domain, n, size);
    tm_hooks_enter(tm_tstate_thread_pointer());
    void *block = tm_hooks_below[domain].calloc(tm_hooks_below[domain].ctx, n, size);
    tm_hooks_leave();
    return fast_finish(layout, deep, domain, block, n * size);
}

TM_ALWAYS_INLINE void *fast_realloc(const struct tm_layout *layout, deep_fn *deep, uint32_t domain,
                                    void *old, size_t size)
{
    if (!tm_fast_is_on() || !tm_fast_is_main(layout))
        return slow_realloc(domain, old, size);
    void *block = tm_hooks_realloc_below(domain, tm_tstate_thread_pointer(), old, size);
    return fast_finish(layout, deep, domain, block, size);
}

/*
 * A traced block of pymalloc's goes straight on to the allocator below: nothing
 * that is freed there passes our raw hook. Everything else is the slow half's.
 */
TM_ALWAYS_INLINE void fast_free(const struct tm_layout *layout, deep_fn *deep, uint32_t domain,
                                void *block)
{
    uint64_t *slot;
    int64_t entry;
    (void)deep;
    if (!tm_fast_is_on() ||
        (layout->py_version >= 0x030c &&
         TM_UNLIKELY(atomic_load_explicit(&tm_hooks_foreign_seen, memory_order_relaxed))) ||
        (slot = tm_shadow_find_shift((uint64_t)block, tm_fast_granule_shift(layout))) == NULL ||
        (entry = (int64_t)__atomic_load_n(slot, __ATOMIC_RELAXED)) <= 0 ||
        tm_entry_size((uint64_t)entry) > SMALL_REQUEST_BYTES) {
        slow_free(domain, block);
        return;
    }
    __atomic_store_n(slot, 0, __ATOMIC_RELAXED);
    struct tm_counter *counter = tm_store_node_counter(TM_LANE_GIL, tm_entry_node((uint64_t)entry));
    int64_t size = tm_entry_size((uint64_t)entry);
    counter->live_bytes -= size;
    counter->gone_blocks++;
    int64_t traced = atomic_load_explicit(&tm_state_own.gil_bytes, memory_order_relaxed) - size;
    atomic_store_explicit(&tm_state_own.gil_bytes, traced, memory_order_relaxed);
    traced += atomic_load_explicit(&tm_state_own.shared_bytes, memory_order_relaxed);
    if (tm_fast_outside_window(traced))
        crossed_free(domain, block);
    else
        tm_hooks_below[domain].free(tm_hooks_below[domain].ctx, block);
}

/* ---- sampling: most calls go straight on ---- */

/* True where nothing but the countdown is to be done. A block that is a sample, a large one (it
 * nests a raw allocation) and every other case is the slow half's. `many`: there may be
 * interpreters with a GIL, and a countdown, of their own. */
TM_ALWAYS_INLINE bool sample_passes(bool many, size_t size)
{
    int64_t left = tm_sample_left[TM_LANE_GIL] - (int64_t)(size + (size == 0));
    if (TM_UNLIKELY(size > SMALL_REQUEST_BYTES || left <= 0))
        return false;
    if (many) {
        uint64_t tstate = tm_tstate_thread_word(tm_tstate_tls_offset);
        if (TM_UNLIKELY(tstate == 0 || !tm_hooks_is_main(tstate, tm_layout.tstate_interp)))
            return false;
    }
    tm_sample_left[TM_LANE_GIL] = left;
    return true;
}

TM_ALWAYS_INLINE void *sample_malloc(bool many, uint32_t domain, size_t size)
{
    if (!sample_passes(many, size))
        return slow_malloc(domain, size);
    return tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);
}

TM_ALWAYS_INLINE void *sample_calloc(bool many, uint32_t domain, size_t n, size_t size)
{
    size_t n_bytes;
    if (TM_UNLIKELY(__builtin_mul_overflow(n, size, &n_bytes)) || !sample_passes(many, n_bytes))
        return slow_calloc(domain, n, size);
    return tm_hooks_below[domain].calloc(tm_hooks_below[domain].ctx, n, size);
}

/* The old block may be a large one, which nests a raw call. */
TM_ALWAYS_INLINE void *sample_realloc(bool many, uint32_t domain, void *old, size_t size)
{
    uintptr_t word = atomic_load_explicit(&tm_live->word, memory_order_relaxed);
    if (TM_UNLIKELY(old == NULL || word - TM_WORD_FAST > TM_WORD_SLOW - TM_WORD_FAST ||
                    tm_sample_page_used((uint64_t)old)) ||
        !sample_passes(many, size))
        return slow_realloc(domain, old, size);
    tm_hooks_enter(tm_tstate_thread_pointer());
    void *block = tm_hooks_below[domain].realloc(tm_hooks_below[domain].ctx, old, size);
    tm_hooks_leave();
    return block;
}

TM_ALWAYS_INLINE void sample_free(bool many, uint32_t domain, void *block)
{
    (void)many;
    if (TM_LIKELY(!tm_sample_page_used((uint64_t)block)))
        tm_hooks_below[domain].free(tm_hooks_below[domain].ctx, block);
    else
        slow_free(domain, block);
}

/* ---- the functions that Python calls ---- */

#define DEFINE_HOOKS(prefix, suffix, domain, ...)                                                  \
    static void *malloc_##suffix(void *ctx, size_t size)                                           \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return prefix##_malloc(__VA_ARGS__ domain, size);                                          \
    }                                                                                              \
    static void *calloc_##suffix(void *ctx, size_t n, size_t size)                                 \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return prefix##_calloc(__VA_ARGS__ domain, n, size);                                       \
    }                                                                                              \
    static void *realloc_##suffix(void *ctx, void *old, size_t size)                               \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return prefix##_realloc(__VA_ARGS__ domain, old, size);                                    \
    }                                                                                              \
    static void free_##suffix(void *ctx, void *block)                                              \
    {                                                                                              \
        (void)ctx;                                                                                 \
        prefix##_free(__VA_ARGS__ domain, block);                                                  \
    }

#define COMMA ,
#define DEFINE_BOTH(prefix, suffix, ...)                                                           \
    DEFINE_HOOKS(prefix, suffix##_mem, TM_PY_DOMAIN_MEM, __VA_ARGS__)                              \
    DEFINE_HOOKS(prefix, suffix##_obj, TM_PY_DOMAIN_OBJ, __VA_ARGS__)
#define DEFINE_ROW(suffix, row)                                                                    \
    static __attribute__((noinline)) struct tm_stack_entry *follow_##suffix(                       \
        struct tm_stack *stack, tm_frame_ref frame, uint32_t limit)                                \
    {                                                                                              \
        return tm_stack_follow(stack, &tm_layout_table[TM_LAYOUT_##row], frame, limit);            \
    }                                                                                              \
    static __attribute__((noinline)) uint32_t deep_##suffix(tm_frame_ref frame)                    \
    {                                                                                              \
        return deep_node(&tm_layout_table[TM_LAYOUT_##row], follow_##suffix, frame);               \
    }                                                                                              \
    DEFINE_BOTH(fast, suffix, &tm_layout_table[TM_LAYOUT_##row] COMMA deep_##suffix COMMA)

DEFINE_BOTH(slow, any, )
DEFINE_BOTH(sample, sample_one, false COMMA)
DEFINE_BOTH(sample, sample_many, true COMMA)
DEFINE_ROW(v3_3, 3_3)
DEFINE_ROW(v3_6, 3_6)
DEFINE_ROW(v3_7, 3_7)
DEFINE_ROW(v3_8, 3_8)
DEFINE_ROW(v3_10, 3_10)
DEFINE_ROW(v3_11, 3_11)
DEFINE_ROW(v3_12, 3_12)
DEFINE_ROW(v3_13, 3_13)

#define HOOKS(suffix)                                                                              \
    {                                                                                              \
        {NULL, malloc_##suffix##_mem, calloc_##suffix##_mem, realloc_##suffix##_mem,               \
         free_##suffix##_mem},                                                                     \
            {NULL, malloc_##suffix##_obj, calloc_##suffix##_obj, realloc_##suffix##_obj,           \
             free_##suffix##_obj},                                                                 \
    }

static const struct tm_py_allocator any_hooks[2] = HOOKS(any);
static const struct tm_py_allocator sample_one_hooks[2] = HOOKS(sample_one);
static const struct tm_py_allocator sample_many_hooks[2] = HOOKS(sample_many);
static const struct tm_py_allocator row_hooks[TM_LAYOUT_TABLE_COUNT][2] = {
    [TM_LAYOUT_2_7] = HOOKS(v3_3),   [TM_LAYOUT_3_3] = HOOKS(v3_3), /* the same frames */
    [TM_LAYOUT_3_4] = HOOKS(v3_6),   [TM_LAYOUT_3_5] = HOOKS(v3_6),
    [TM_LAYOUT_3_6] = HOOKS(v3_6),   [TM_LAYOUT_3_7] = HOOKS(v3_7),
    [TM_LAYOUT_3_8] = HOOKS(v3_8),   [TM_LAYOUT_3_9] = HOOKS(v3_8), /* the same frames */
    [TM_LAYOUT_3_10] = HOOKS(v3_10), [TM_LAYOUT_3_11] = HOOKS(v3_11),
    [TM_LAYOUT_3_12] = HOOKS(v3_12), [TM_LAYOUT_3_13] = HOOKS(v3_13),
};

const struct tm_py_allocator *tm_hooks_gil(uint32_t domain)
{
    uint32_t which = domain == TM_PY_DOMAIN_OBJ;
    if (tm_py.free_threaded)
        return &tm_hooks_shared[domain];
    if (tm_store.sample_mean_bytes != 0 && tm_hooks_main_interp == 0)
        return &sample_one_hooks[which];
    bool direct = tm_py.version_hex < 0x030c0000 ? tm_tstate_access == TM_TSTATE_GLOBAL
                                                 : tm_tstate_access == TM_TSTATE_TLS;
    if (tm_layout_table_index < 0 || !direct)
        return &any_hooks[which];
    if (tm_store.sample_mean_bytes != 0)
        return &sample_many_hooks[which];
    const struct tm_py_allocator *row = &row_hooks[tm_layout_table_index][which];
    return tm_native_depth != 0 ? tm_hooks_native(domain, row) : row;
}
