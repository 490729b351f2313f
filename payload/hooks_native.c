// SPDX-License-Identifier: MIT
/*
 * The obj and mem hooks of the main interpreter while native frames are on: the
 * walk begins at the hook's own caller, and where it was met before (nearly
 * always) that is all. Everything else is left to the hook that these stand in
 * front of (payload/hooks_gil.c): it has the same checks, and a slow half.
 */
#include "payload/hooks_lane.h"
#include "payload/native/native.h"

/* By domain less one: what there is without native frames. */
static struct tm_py_allocator plain[2];

TM_ALWAYS_INLINE uint64_t current_tstate(void)
{
    if (tm_tstate_access == TM_TSTATE_GLOBAL)
        return *(const volatile uint64_t *)tm_tstate_global;
    return *(const volatile uint64_t *)(tm_tstate_thread_pointer() +
                                        (uint64_t)tm_tstate_tls_offset);
}

/* The word is the main interpreter's GIL's, which this thread must hold. */
TM_ALWAYS_INLINE bool is_ready(uint64_t *ret_tstate)
{
    if (TM_UNLIKELY(atomic_load_explicit(&tm_live->word, memory_order_relaxed) != TM_WORD_FAST))
        return false;
    *ret_tstate = current_tstate();
    return TM_LIKELY(*ret_tstate != 0 && (tm_hooks_main_interp == 0 ||
                                          tm_hooks_is_main(*ret_tstate, tm_layout.tstate_interp)));
}

static __attribute__((noinline)) void record_slowly(uint32_t domain, void *block, size_t size,
                                                    const void *frame)
{
    struct tm_traceback traceback;
    if (!tm_native_traceback_of(TM_LANE_GIL, current_tstate(), frame, &traceback))
        tm_traceback_not_traced(&tm_traceback_caches[TM_LANE_GIL]);
    else
        tm_store_record(TM_LANE_GIL, (uint64_t)block, size, domain, traceback.node);
}

TM_ALWAYS_INLINE void *finish(uint32_t domain, void *block, size_t size, uint64_t tstate,
                              const void *frame)
{
    struct tm_traceback traceback;
    if (TM_UNLIKELY(block == NULL))
        return NULL;
    uint64_t *slot = tm_shadow_find((uint64_t)block);
    if (TM_UNLIKELY(slot == NULL || *slot != 0 || size >= TM_SIZE_OVERFLOW ||
                    !tm_native_known(tstate, frame, &traceback))) {
        record_slowly(domain, block, size, frame);
        return block;
    }
    __atomic_store_n(slot, tm_store_entry(size, domain, traceback.node), __ATOMIC_RELEASE);
    tm_store_account_new(TM_LANE_GIL, traceback.counter, (int64_t)size, 1);
    return block;
}

TM_ALWAYS_INLINE void *native_malloc(uint32_t domain, size_t size, const void *frame)
{
    uint64_t tstate;
    if (!is_ready(&tstate))
        return plain[domain - 1].malloc(plain[domain - 1].ctx, size);
    tm_hooks_enter(tm_tstate_thread_pointer());
    void *block = tm_hooks_below[domain].malloc(tm_hooks_below[domain].ctx, size);
    tm_hooks_leave();
    return finish(domain, block, size, tstate, frame);
}

TM_ALWAYS_INLINE void *native_calloc(uint32_t domain, size_t n, size_t size, const void *frame)
{
    uint64_t tstate;
    if (!is_ready(&tstate))
        return plain[domain - 1].calloc(plain[domain - 1].ctx, n, size);
    tm_hooks_enter(tm_tstate_thread_pointer());
    void *block = tm_hooks_below[domain].calloc(tm_hooks_below[domain].ctx, n, size);
    tm_hooks_leave();
    return finish(domain, block, n * size, tstate, frame);
}

TM_ALWAYS_INLINE void *native_realloc(uint32_t domain, void *old, size_t size, const void *frame)
{
    uint64_t tstate;
    if (!is_ready(&tstate))
        return plain[domain - 1].realloc(plain[domain - 1].ctx, old, size);
    void *block = tm_hooks_realloc_below(domain, tm_tstate_thread_pointer(), old, size);
    return finish(domain, block, size, tstate, frame);
}

#define DEFINE_HOOKS(suffix, domain)                                                               \
    static void *malloc_##suffix(void *ctx, size_t size)                                           \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return native_malloc(domain, size, __builtin_frame_address(0));                            \
    }                                                                                              \
    static void *calloc_##suffix(void *ctx, size_t n, size_t size)                                 \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return native_calloc(domain, n, size, __builtin_frame_address(0));                         \
    }                                                                                              \
    static void *realloc_##suffix(void *ctx, void *old, size_t size)                               \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return native_realloc(domain, old, size, __builtin_frame_address(0));                      \
    }

DEFINE_HOOKS(mem, TM_PY_DOMAIN_MEM)
DEFINE_HOOKS(obj, TM_PY_DOMAIN_OBJ)

const struct tm_py_allocator *tm_hooks_native(uint32_t domain,
                                              const struct tm_py_allocator *without)
{
    static struct tm_py_allocator hooks[2] = {
        {NULL, malloc_mem, calloc_mem, realloc_mem, NULL},
        {NULL, malloc_obj, calloc_obj, realloc_obj, NULL},
    };
    plain[domain - 1] = *without;
    hooks[domain - 1].free = without->free;
    return &hooks[domain - 1];
}
