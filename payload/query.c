// SPDX-License-Identifier: MIT
#include "payload/query.h"

#include "payload/hooks.h"
#include "payload/arena.h"
#include "payload/mem.h"
#include "payload/store.h"

bool tm_query_trace(uint64_t addr, struct tm_query_trace *ret)
{
    uint64_t *slot = tm_shadow_find(addr);
    uint64_t entry = slot ? __atomic_load_n(slot, __ATOMIC_RELAXED) : 0;
    if (tm_entry_domain_plus_1(entry) == 0)
        return false;
    *ret = (struct tm_query_trace){addr, tm_store_entry_size_bytes(addr, entry),
                                   tm_entry_node(entry), tm_entry_domain_plus_1(entry) - 1};
    return true;
}

static void count_chunk(void *data, uint64_t base_addr, uint64_t *entries)
{
    size_t *count = data;
    (void)base_addr;
    for (uint32_t i = 0; i < tm_shadow.chunk_entries; i++)
        *count += tm_entry_domain_plus_1(__atomic_load_n(&entries[i], __ATOMIC_RELAXED)) != 0;
}

static void copy_chunk(void *data, uint64_t base_addr, uint64_t *entries)
{
    struct tm_query_traces *traces = data;
    for (uint32_t i = 0; i < tm_shadow.chunk_entries; i++) {
        uint64_t entry = __atomic_load_n(&entries[i], __ATOMIC_RELAXED);
        uint64_t addr = base_addr + ((uint64_t)i << tm_shadow.granule_shift);
        if (tm_entry_domain_plus_1(entry) == 0 || traces->count == traces->capacity)
            continue;
        traces->items[traces->count++] =
            (struct tm_query_trace){addr, tm_store_entry_size_bytes(addr, entry),
                                    tm_entry_node(entry), tm_entry_domain_plus_1(entry) - 1};
    }
}

bool tm_query_traces(struct tm_query_traces *ret)
{
    *ret = (struct tm_query_traces){0};
    /* The lanes stand still: what is counted is what is copied. */
    tm_store_stop();
    tm_shadow_walk(count_chunk, &ret->capacity);
    ret->items = tm_mem_map((ret->capacity + 1) * sizeof(*ret->items));
    if (ret->items != NULL)
        tm_shadow_walk(copy_chunk, ret);
    tm_store_go();
    return ret->items != NULL;
}

void tm_query_traces_free(struct tm_query_traces *traces)
{
    tm_mem_unmap(traces->items, (traces->capacity + 1) * sizeof(*traces->items));
    *traces = (struct tm_query_traces){0};
}

void tm_query_site(uint32_t site, uint64_t *ret_bytes, uint64_t *ret_blocks)
{
    const struct tm_counter *gil = tm_store_counter(TM_LANE_GIL, site);
    const struct tm_counter *shared = tm_store_counter(TM_LANE_SHARED, site);
    uint64_t scale = tm_store.sample_mean_bytes != 0 ? TM_BLOCK_SCALE : 1;
    int64_t blocks = (int64_t)(gil->total_blocks - gil->gone_blocks + shared->total_blocks -
                               shared->gone_blocks);
    int64_t bytes = gil->live_bytes + shared->live_bytes;
    *ret_bytes = bytes > 0 ? (uint64_t)bytes : 0;
    *ret_blocks = blocks > 0 ? (uint64_t)blocks / scale : 0;
}

/* A snapshot that is being written wants what it has not passed yet: that goes to its log. */
static void clear_chunk(void *data, uint64_t base_addr, uint64_t *entries)
{
    (void)data;
    for (uint32_t i = 0; i < tm_shadow.chunk_entries; i++) {
        uint64_t entry = __atomic_load_n(&entries[i], __ATOMIC_RELAXED);
        if (tm_entry_domain_plus_1(entry) == 0)
            continue;
        uint64_t addr = base_addr + ((uint64_t)i << tm_shadow.granule_shift);
        if (tm_store.snapshot_active && tm_entry_generation(entry) != tm_store.generation)
            tm_store_undo_append(TM_LANE_SHARED, addr, entry);
        if (tm_entry_size(entry) == TM_SIZE_OVERFLOW)
            tm_store_overflow_take(addr);
        __atomic_store_n(&entries[i], entry & TM_MARK_BIT, __ATOMIC_RELAXED);
    }
}

void tm_query_clear(void)
{
    struct tm_state *state = &tm_state_export;
    tm_store_stop();
    tm_shadow_walk(clear_chunk, NULL);
    uint32_t n_sites = tm_vec_count(&state->sites);
    for (uint32_t i = 0; i < n_sites; i++) {
        *tm_store_counter(TM_LANE_GIL, i) = (struct tm_counter){0};
        *tm_store_counter(TM_LANE_SHARED, i) = (struct tm_counter){0};
    }
    /* Blocks on their way through realloc belong to what was forgotten. */
    tm_hooks_new_session();
    state->gil_bytes = state->shared_bytes = 0;
    state->peak_bytes = state->shared_peak_bytes = 0;
    tm_arena_reset();
    tm_store_go();
}
