// SPDX-License-Identifier: MIT
/*
 * The obj and mem hooks of the main interpreter, whose GIL is their lock: the
 * hottest code there is. Each hook is compiled once for every row of
 * payload/layout_table.h, with constant offsets, and falls back on the slow
 * half (any layout, every check) unless tm_live->word says that nothing special
 * is going on.
 */
#include "payload/filter.h"
#include "payload/hooks_lane.h"
#include "payload/layout_table.h"
#include "payload/sample.h"

#define SMALL_REQUEST_BYTES 512 /* pymalloc's: what is larger nests a raw allocation */

/* ---- the slow half ---- */

/* True where the interpreter of this thread has a GIL of its own (3.12 on). */
static bool is_foreign(uint64_t tstate)
{
    if (tm_hooks_main_interp == 0 || tstate == 0 ||
        tm_frames_load(tstate + (uint32_t)tm_layout.tstate_interp) == tm_hooks_main_interp)
        return false;
    atomic_store_explicit(&tm_hooks_foreign_seen, true, memory_order_relaxed);
    return true;
}

static bool passes(uintptr_t self)
{
    return atomic_load_explicit(&tm_live->mode, memory_order_relaxed) == TM_WORD_OFF ||
           tm_hooks_is_nested(self);
}

TM_ALWAYS_INLINE void enter(uintptr_t self)
{
    atomic_store_explicit(&tm_live->word, self, memory_order_relaxed);
}

TM_ALWAYS_INLINE void leave(void)
{
    atomic_store_explicit(&tm_live->word,
                          atomic_load_explicit(&tm_live->mode, memory_order_relaxed),
                          memory_order_relaxed);
}

static __attribute__((noinline)) void slow_record(uint32_t domain, uint64_t tstate, void *block,
                                                  size_t size)
{
    struct tm_traceback traceback;
    if (tm_store.sample_mean_bytes != 0 && !tm_sample_take(TM_LANE_GIL, size))
        return;
    if (!tm_traceback_get(&tm_traceback_caches[TM_LANE_GIL], &tm_layout, tstate, &traceback))
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
    enter(self);
    void *block = below->malloc(below->ctx, size);
    leave();
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
    enter(self);
    void *block = below->calloc(below->ctx, n, size);
    leave();
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
    struct tm_taken taken = {0, 0};
    if (old != NULL)
        taken = tm_store_take(TM_LANE_GIL, (uint64_t)old);
    enter(self);
    void *block = below->realloc(below->ctx, old, size);
    leave();
    if (block == NULL) {
        if (taken.entry != 0)
            tm_store_put_back((uint64_t)old, taken);
        return NULL;
    }
    if (taken.entry != 0)
        tm_store_unaccount(TM_LANE_GIL, taken);
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
    enter(self);
    below->free(below->ctx, block);
    leave();
}

/* ---- the fast half ---- */

TM_ALWAYS_INLINE bool is_fast(void)
{
    return TM_LIKELY(atomic_load_explicit(&tm_live->word, memory_order_relaxed) == TM_WORD_FAST);
}

/* The thread state, 0 where the fast half must not go on. */
TM_ALWAYS_INLINE uint64_t fast_tstate(const struct tm_layout *layout, uintptr_t self)
{
    if (layout->py_version < 0x030c)
        return *tm_tstate_global;
    uint64_t tstate = tm_frames_load(self + (uint64_t)tm_tstate_tls_offset);
    if (TM_UNLIKELY(tstate == 0 || tm_frames_load(tstate + (uint32_t)layout->tstate_interp) !=
                                       tm_hooks_main_interp))
        return 0;
    return tstate;
}

TM_ALWAYS_INLINE uint32_t granule_shift(const struct tm_layout *layout)
{
    return layout->py_version < 0x0308 ? TM_GRANULE_SHIFT_OLD : TM_GRANULE_SHIFT;
}

TM_ALWAYS_INLINE void fast_record(const struct tm_layout *layout, uint32_t domain, uint64_t tstate,
                                  void *block, size_t size)
{
    struct tm_traceback traceback;
    if (TM_UNLIKELY(
            !tm_traceback_get(&tm_traceback_caches[TM_LANE_GIL], layout, tstate, &traceback))) {
        tm_traceback_not_traced(&tm_traceback_caches[TM_LANE_GIL]);
        return;
    }
    uint64_t *slot = tm_shadow_find_shift((uint64_t)block, granule_shift(layout));
    if (TM_UNLIKELY(slot == NULL || *slot != 0 || size >= TM_SIZE_OVERFLOW)) {
        tm_store_record(TM_LANE_GIL, (uint64_t)block, size, domain, traceback.node);
        return;
    }
    __atomic_store_n(slot, tm_store_entry(size, domain, traceback.node), __ATOMIC_RELEASE);
    tm_store_account_new(TM_LANE_GIL, traceback.counter, (int64_t)size, 1);
}

/* Takes a block out of everything; false: the slow half must do it. */
TM_ALWAYS_INLINE bool fast_forget(const struct tm_layout *layout, void *block)
{
    uint64_t *slot = tm_shadow_find_shift((uint64_t)block, granule_shift(layout));
    if (slot == NULL)
        return true;
    uint64_t entry = __atomic_load_n(slot, __ATOMIC_RELAXED);
    if (entry == 0)
        return true;
    uint32_t size = tm_entry_size(entry);
    if (TM_UNLIKELY((int64_t)entry < 0 || size == TM_SIZE_OVERFLOW))
        return false;
    __atomic_store_n(slot, 0, __ATOMIC_RELAXED);
    tm_store_account_gone(TM_LANE_GIL, tm_store_node_counter(TM_LANE_GIL, tm_entry_node(entry)),
                          size, 1);
    return true;
}

TM_ALWAYS_INLINE void *fast_malloc(const struct tm_layout *layout, uint32_t domain, size_t size)
{
    uintptr_t self = tm_tstate_thread_pointer();
    uint64_t tstate;
    if (!is_fast() || TM_UNLIKELY((tstate = fast_tstate(layout, self)) == 0))
        return slow_malloc(domain, size);
    enter(self);
    void *block = tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);
    leave();
    if (TM_LIKELY(block != NULL))
        fast_record(layout, domain, tstate, block, size);
    return block;
}

TM_ALWAYS_INLINE void *fast_calloc(const struct tm_layout *layout, uint32_t domain, size_t n,
                                   size_t size)
{
    uintptr_t self = tm_tstate_thread_pointer();
    uint64_t tstate;
    if (!is_fast() || TM_UNLIKELY((tstate = fast_tstate(layout, self)) == 0))
        return slow_calloc(domain, n, size);
    enter(self);
    void *block = tm_hooks_below[domain].calloc(tm_hooks_below[domain].ctx, n, size);
    leave();
    if (TM_LIKELY(block != NULL))
        fast_record(layout, domain, tstate, block, n * size);
    return block;
}

/* The old record is out of the map while the allocator below runs (its address may be somebody
 * else's afterwards) and out of the counters once that has succeeded. */
TM_ALWAYS_INLINE void *fast_realloc(const struct tm_layout *layout, uint32_t domain, void *old,
                                    size_t size)
{
    uintptr_t self = tm_tstate_thread_pointer();
    uint64_t tstate;
    if (!is_fast() || old == NULL || TM_UNLIKELY((tstate = fast_tstate(layout, self)) == 0))
        return slow_realloc(domain, old, size);
    struct tm_taken taken = tm_store_take(TM_LANE_GIL, (uint64_t)old);
    enter(self);
    void *block = tm_hooks_below[domain].realloc(tm_hooks_below[domain].ctx, old, size);
    leave();
    if (TM_UNLIKELY(block == NULL)) {
        if (taken.entry != 0)
            tm_store_put_back((uint64_t)old, taken);
        return NULL;
    }
    if (taken.entry != 0)
        tm_store_unaccount(TM_LANE_GIL, taken);
    fast_record(layout, domain, tstate, block, size);
    return block;
}

TM_ALWAYS_INLINE void fast_free(const struct tm_layout *layout, uint32_t domain, void *block)
{
    if (!is_fast() || block == NULL ||
        (layout->py_version >= 0x030c &&
         TM_UNLIKELY(atomic_load_explicit(&tm_hooks_foreign_seen, memory_order_relaxed))) ||
        TM_UNLIKELY(!fast_forget(layout, block))) {
        slow_free(domain, block);
        return;
    }
    enter(tm_tstate_thread_pointer());
    tm_hooks_below[domain].free(tm_hooks_below[domain].ctx, block);
    leave();
}

/* ---- sampling: most calls go straight on ---- */

TM_ALWAYS_INLINE void *sample_malloc(uint32_t domain, size_t size)
{
    if (is_fast() && TM_LIKELY(size <= SMALL_REQUEST_BYTES) &&
        TM_LIKELY(tm_sample_left[TM_LANE_GIL] > SMALL_REQUEST_BYTES)) {
        tm_sample_left[TM_LANE_GIL] -= size ? (int64_t)size : 1;
        return tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);
    }
    return slow_malloc(domain, size);
}

TM_ALWAYS_INLINE void *sample_calloc(uint32_t domain, size_t n, size_t size)
{
    return slow_calloc(domain, n, size);
}

TM_ALWAYS_INLINE void *sample_realloc(uint32_t domain, void *old, size_t size)
{
    return slow_realloc(domain, old, size);
}

TM_ALWAYS_INLINE void sample_free(uint32_t domain, void *block)
{
    if (is_fast() && TM_LIKELY(!tm_sample_page_used((uint64_t)block)))
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
#define ROW(row) &tm_layout_table[TM_LAYOUT_##row] COMMA
#define DEFINE_BOTH(prefix, suffix, ...)                                                           \
    DEFINE_HOOKS(prefix, suffix##_mem, TM_PY_DOMAIN_MEM, __VA_ARGS__)                              \
    DEFINE_HOOKS(prefix, suffix##_obj, TM_PY_DOMAIN_OBJ, __VA_ARGS__)

DEFINE_BOTH(slow, any, )
DEFINE_BOTH(sample, sample, )
DEFINE_BOTH(fast, v3_3, ROW(3_3))
DEFINE_BOTH(fast, v3_6, ROW(3_6))
DEFINE_BOTH(fast, v3_7, ROW(3_7))
DEFINE_BOTH(fast, v3_8, ROW(3_8))
DEFINE_BOTH(fast, v3_10, ROW(3_10))
DEFINE_BOTH(fast, v3_11, ROW(3_11))
DEFINE_BOTH(fast, v3_12, ROW(3_12))
DEFINE_BOTH(fast, v3_13, ROW(3_13))

#define HOOKS(suffix)                                                                              \
    {                                                                                              \
        {NULL, malloc_##suffix##_mem, calloc_##suffix##_mem, realloc_##suffix##_mem,               \
         free_##suffix##_mem},                                                                     \
            {NULL, malloc_##suffix##_obj, calloc_##suffix##_obj, realloc_##suffix##_obj,           \
             free_##suffix##_obj},                                                                 \
    }

static const struct tm_py_allocator any_hooks[2] = HOOKS(any);
static const struct tm_py_allocator sample_hooks[2] = HOOKS(sample);
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
    if (tm_store.sample_mean_bytes != 0)
        return &sample_hooks[which];
    bool direct = tm_py.version_hex < 0x030c0000 ? tm_tstate_access == TM_TSTATE_GLOBAL
                                                 : tm_tstate_access == TM_TSTATE_TLS;
    if (tm_layout_table_index < 0 || !direct)
        return &any_hooks[which];
    return &row_hooks[tm_layout_table_index][which];
}
