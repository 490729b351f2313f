// SPDX-License-Identifier: MIT
/*
 * The obj and mem hooks of the main interpreter while native frames are on: the
 * walk begins at the hook's own caller, and where it was met before (nearly
 * always) that is all. Everything else is left to the hook that these stand in
 * front of (payload/hooks_gil.c): it has the same checks, and a slow half.
 */
#include "payload/hooks_fast.h"
#include "payload/layout_table.h"
#include "payload/native/noted.h"

/* By domain less one: what there is without native frames. */
static struct tm_py_allocator plain[2];

static __attribute__((noinline)) void record_slowly(uint32_t domain, uint64_t tstate, void *block,
                                                    size_t size, const void *frame)
{
    struct tm_traceback traceback;
    if (!tm_native_traceback_of(TM_LANE_GIL, tstate, frame, &traceback))
        tm_traceback_not_traced(&tm_traceback_caches[TM_LANE_GIL]);
    else
        tm_store_record(TM_LANE_GIL, (uint64_t)block, size, domain, traceback.node);
}

/* There is no note; `slot` NULL: nor a place in the shadow map that can be used as it is. Not as
 * the last thing of a hook, whose frame must stay. */
static __attribute__((noinline)) void record(uint32_t domain, void *block, size_t size,
                                             uint64_t *slot, const void *frame)
{
    struct tm_traceback traceback;
    uint64_t tstate = tm_fast_tstate(&tm_layout);
    if (TM_UNLIKELY(slot == NULL || !tm_native_known(tstate, frame, &traceback)))
        record_slowly(domain, tstate, block, size, frame);
    else
        tm_fast_record(domain, block, size, slot, traceback);
}

TM_ALWAYS_INLINE void *finish(const struct tm_layout *layout, uint32_t domain, void *block,
                              size_t size, const void *frame)
{
    struct tm_traceback traceback;
    if (TM_UNLIKELY(block == NULL))
        return NULL;
    uint64_t *slot = tm_shadow_find_shift((uint64_t)block, tm_fast_granule_shift(layout));
    if (TM_UNLIKELY(slot != NULL && (*slot != 0 || size >= TM_SIZE_OVERFLOW)))
        slot = NULL;
    if (TM_UNLIKELY(slot == NULL ||
                    !tm_native_noted(layout, tm_fast_tstate(layout), frame, &traceback))) {
        record(domain, block, size, slot, frame);
        return block;
    }
    return tm_fast_record(domain, block, size, slot, traceback);
}

TM_ALWAYS_INLINE void *native_malloc(const struct tm_layout *layout, uint32_t domain, size_t size,
                                     const void *frame)
{
    if (!tm_fast_is_on() || !tm_fast_is_main(layout))
        return plain[domain - 1].malloc(plain[domain - 1].ctx, size);
    tm_hooks_enter(tm_tstate_thread_pointer());
    void *block = tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);
    tm_hooks_leave();
    return finish(layout, domain, block, size, frame);
}

TM_ALWAYS_INLINE void *native_calloc(const struct tm_layout *layout, uint32_t domain, size_t n,
                                     size_t size, const void *frame)
{
    if (!tm_fast_is_on() || !tm_fast_is_main(layout))
        return plain[domain - 1].calloc(plain[domain - 1].ctx, n, size);
    tm_hooks_enter(tm_tstate_thread_pointer());
    void *block = tm_hooks_below[domain].calloc(tm_hooks_below[domain].ctx, n, size);
    tm_hooks_leave();
    return finish(layout, domain, block, n * size, frame);
}

TM_ALWAYS_INLINE void *native_realloc(const struct tm_layout *layout, uint32_t domain, void *old,
                                      size_t size, const void *frame)
{
    if (!tm_fast_is_on() || !tm_fast_is_main(layout))
        return plain[domain - 1].realloc(plain[domain - 1].ctx, old, size);
    void *block = tm_hooks_realloc_below(domain, tm_tstate_thread_pointer(), old, size);
    return finish(layout, domain, block, size, frame);
}

#define DEFINE_HOOKS(suffix, layout, domain)                                                       \
    static void *malloc_##suffix(void *ctx, size_t size)                                           \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return native_malloc(layout, domain, size, __builtin_frame_address(0));                    \
    }                                                                                              \
    static void *calloc_##suffix(void *ctx, size_t n, size_t size)                                 \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return native_calloc(layout, domain, n, size, __builtin_frame_address(0));                 \
    }                                                                                              \
    static void *realloc_##suffix(void *ctx, void *old, size_t size)                               \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return native_realloc(layout, domain, old, size, __builtin_frame_address(0));              \
    }
#define DEFINE_BOTH(suffix, layout)                                                                \
    DEFINE_HOOKS(suffix##_mem, layout, TM_PY_DOMAIN_MEM)                                           \
    DEFINE_HOOKS(suffix##_obj, layout, TM_PY_DOMAIN_OBJ)
#define DEFINE_ROW(suffix, row) DEFINE_BOTH(suffix, &tm_layout_table[TM_LAYOUT_##row])

DEFINE_BOTH(any, &tm_layout)
DEFINE_ROW(v3_6, 3_6)
DEFINE_ROW(v3_7, 3_7)
DEFINE_ROW(v3_8, 3_8)
DEFINE_ROW(v3_10, 3_10)
DEFINE_ROW(v3_11, 3_11)
DEFINE_ROW(v3_12, 3_12)
DEFINE_ROW(v3_13, 3_13)

#define HOOKS(suffix)                                                                              \
    {                                                                                              \
        {NULL, malloc_##suffix##_mem, calloc_##suffix##_mem, realloc_##suffix##_mem, NULL},        \
            {NULL, malloc_##suffix##_obj, calloc_##suffix##_obj, realloc_##suffix##_obj, NULL},    \
    }

const struct tm_py_allocator *tm_hooks_native(uint32_t domain,
                                              const struct tm_py_allocator *without)
{
    static const struct tm_py_allocator any_hooks[2] = HOOKS(any);
    static const struct tm_py_allocator row_hooks[TM_LAYOUT_TABLE_COUNT][2] = {
        [TM_LAYOUT_3_6] = HOOKS(v3_6),   [TM_LAYOUT_3_7] = HOOKS(v3_7),
        [TM_LAYOUT_3_8] = HOOKS(v3_8),   [TM_LAYOUT_3_9] = HOOKS(v3_8), /* the same frames */
        [TM_LAYOUT_3_10] = HOOKS(v3_10), [TM_LAYOUT_3_11] = HOOKS(v3_11),
        [TM_LAYOUT_3_12] = HOOKS(v3_12), [TM_LAYOUT_3_13] = HOOKS(v3_13),
    };
    static struct tm_py_allocator hooks[2];
    const struct tm_py_allocator *row =
        tm_layout_table_index >= 0 ? row_hooks[tm_layout_table_index] : any_hooks;
    if (row[0].malloc == NULL)
        row = any_hooks;
    plain[domain - 1] = *without;
    hooks[domain - 1] = row[domain - 1];
    hooks[domain - 1].free = without->free;
    return &hooks[domain - 1];
}
