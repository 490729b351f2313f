// SPDX-License-Identifier: MIT
/*
 * The fast half of the hooks of the GIL lane, what those with native frames and
 * those without share. It calls nothing but the allocator below, so that the
 * compiler keeps almost everything in registers. Where the layout is a row of
 * payload/layout_table.h, the code has constant offsets. Private to
 * payload/hooks*.c.
 */
#pragma once

#include "payload/hooks_lane.h"

TM_ALWAYS_INLINE bool tm_fast_is_on(void)
{
    return TM_LIKELY(atomic_load_explicit(&tm_live->word, memory_order_relaxed) == TM_WORD_FAST);
}

TM_ALWAYS_INLINE uint64_t tm_fast_tstate(const struct tm_layout *layout)
{
    if (layout->py_version < 0x030c)
        return *tm_tstate_global;
    return tm_tstate_thread_word(tm_tstate_tls_offset);
}

/* Before `enter`: that word belongs to the main interpreter's GIL. */
TM_ALWAYS_INLINE bool tm_fast_is_main(const struct tm_layout *layout)
{
    if (layout->py_version < 0x030c)
        return true;
    uint64_t tstate = tm_fast_tstate(layout);
    return TM_LIKELY(tstate != 0 && tm_hooks_is_main(tstate, layout->tstate_interp));
}

TM_ALWAYS_INLINE uint32_t tm_fast_granule_shift(const struct tm_layout *layout)
{
    return layout->py_version < 0x0308 ? TM_GRANULE_SHIFT_OLD : TM_GRANULE_SHIFT;
}

TM_ALWAYS_INLINE bool tm_fast_outside_window(int64_t traced_bytes)
{
    return TM_UNLIKELY((uint64_t)traced_bytes - tm_store.window_base >= tm_store.window_span);
}

void *tm_fast_crossed(void *block);

/* Records a block that was allocated, and gives it back. `slot`: its place in the shadow map, which
 * is empty; size is below TM_SIZE_OVERFLOW. */
TM_ALWAYS_INLINE void *tm_fast_record(uint32_t domain, void *block, size_t size, uint64_t *slot,
                                      struct tm_traceback traceback)
{
    __atomic_store_n(slot, tm_store_entry(size, domain, traceback.node), __ATOMIC_RELEASE);
    struct tm_counter *counter = traceback.counter;
    int64_t live = counter->live_bytes + (int64_t)size;
    counter->live_bytes = live;
    counter->total_blocks++;
    if (live > counter->peak_bytes)
        counter->peak_bytes = live;
    int64_t traced =
        atomic_load_explicit(&tm_state_own.gil_bytes, memory_order_relaxed) + (int64_t)size;
    atomic_store_explicit(&tm_state_own.gil_bytes, traced, memory_order_relaxed);
    traced += atomic_load_explicit(&tm_state_own.shared_bytes, memory_order_relaxed);
    if (traced > atomic_load_explicit(&tm_state_own.peak_bytes, memory_order_relaxed))
        atomic_store_explicit(&tm_state_own.peak_bytes, traced, memory_order_relaxed);
    return tm_fast_outside_window(traced) ? tm_fast_crossed(block) : block;
}
