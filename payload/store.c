// SPDX-License-Identifier: MIT
#include "payload/store.h"

#include "format/sampling.h"
#include "payload/mem.h"
#include "payload/sample.h"

enum {
    FIRST_OVERFLOW_SLOTS = 1024,
    FIRST_UNDO_RECORDS = 4096,
    OVERFLOW_EMPTY = 0,
    OVERFLOW_DELETED = 1,
};

struct tm_store tm_store;
uint32_t tm_lanes_used = TM_LANE_SHARED + 1;
struct tm_lane_lock tm_lane_locks[TM_LANES] = {
    [0 ... TM_LANES - 1] = {PTHREAD_MUTEX_INITIALIZER},
};

/* Guards the overflow table. Innermost: nothing is called while it is held. */
static pthread_mutex_t overflow_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t overflow_used; /* slots that are not empty; overflow_lock */

static struct tm_overflow_slot *overflow_table(void)
{
    return (struct tm_overflow_slot *)tm_state_export.overflow_addr;
}

void tm_store_stop(void)
{
    for (uint32_t lane = TM_LANE_SHARED; lane < tm_lanes_used; lane++)
        tm_lane_take((enum tm_lane)lane);
}

void tm_store_go(void)
{
    for (uint32_t lane = TM_LANE_SHARED; lane < tm_lanes_used; lane++)
        tm_lane_drop((enum tm_lane)lane);
}

bool tm_store_init(uint32_t granule_shift)
{
    struct tm_state *state = &tm_state_export;
    tm_store.generation = 1;
    tm_store.generation_bits = 1ull << TM_GEN_SHIFT;
    tm_store.snapshot_active = false;
    tm_store.window_base = 0;
    tm_store.window_span = UINT64_MAX;
    state->generation = 1;
    state->gil_bytes = state->shared_bytes = 0;
    state->peak_bytes = state->shared_peak_bytes = 0;
    atomic_store_explicit(&state->dropped, 0, memory_order_relaxed);
    if (tm_shadow_init(granule_shift) &&
        tm_vec_init(&state->counters_gil, sizeof(struct tm_counter)) &&
        tm_vec_init(&state->counters_shared, sizeof(struct tm_counter)) &&
        tm_vec_reserve(&state->counters_gil, 0) && tm_vec_reserve(&state->counters_shared, 0) &&
        tm_intern_init())
        return true;
    tm_store_done();
    return false;
}

void tm_store_done(void)
{
    struct tm_state *state = &tm_state_export;
    tm_intern_done();
    tm_shadow_done();
    tm_vec_done(&state->counters_gil);
    tm_vec_done(&state->counters_shared);
    for (int lane = 0; lane < TM_LANES; lane++)
        tm_store_undo_free(&tm_store.undo[lane]);
    tm_mem_unmap(overflow_table(), state->overflow_slots * sizeof(struct tm_overflow_slot));
    state->overflow_addr = state->overflow_slots = overflow_used = 0;
    tm_store.snapshot_active = false;
    tm_mem_set_sparse(0);
}

void tm_store_abandon(void)
{
    struct tm_state *state = &tm_state_export;
    tm_intern_abandon();
    tm_shadow_abandon();
    for (int lane = 0; lane < TM_LANES; lane++)
        pthread_mutex_init(&tm_lane_locks[lane].mutex, NULL);
    pthread_mutex_init(&overflow_lock, NULL);
    state->counters_gil = state->counters_shared = (struct tm_vec){0};
    state->overflow_addr = state->overflow_slots = overflow_used = 0;
    for (int lane = 0; lane < TM_LANES; lane++)
        tm_store.undo[lane] = (struct tm_undo_log){0};
    tm_store.snapshot_active = false;
    tm_mem_set_sparse(0);
    atomic_store_explicit(&state->own_bytes, 0, memory_order_relaxed);
}

uint64_t tm_store_live_blocks(void)
{
    uint64_t blocks = 0;
    uint32_t n_sites = tm_vec_count(&tm_state_export.sites);
    for (uint32_t i = 0; i < n_sites; i++)
        for (int lane = TM_LANE_GIL; lane <= TM_LANE_SHARED; lane++) {
            struct tm_counter *counter = tm_store_counter((enum tm_lane)lane, i);
            blocks += __atomic_load_n(&counter->total_blocks, __ATOMIC_RELAXED) -
                      __atomic_load_n(&counter->gone_blocks, __ATOMIC_RELAXED);
        }
    return blocks;
}

/* ---- sizes that do not fit into an entry ---- */

static uint64_t overflow_start(uint64_t addr, uint64_t slots)
{
    return (addr * 0x9e3779b97f4a7c15ull >> 32) & (slots - 1);
}

/* Slot of addr or NULL; overflow_lock. */
static struct tm_overflow_slot *overflow_slot(uint64_t addr)
{
    struct tm_overflow_slot *table = overflow_table();
    uint64_t slots = tm_state_export.overflow_slots;
    if (table == NULL)
        return NULL;
    for (uint64_t i = overflow_start(addr, slots);; i = (i + 1) & (slots - 1)) {
        uint64_t key = atomic_load_explicit(&table[i].addr, memory_order_relaxed);
        if (key == addr)
            return &table[i];
        if (key == OVERFLOW_EMPTY)
            return NULL;
    }
}

static void overflow_insert(struct tm_overflow_slot *table, uint64_t slots, uint64_t addr,
                            uint64_t size_bytes)
{
    uint64_t i = overflow_start(addr, slots);
    while (atomic_load_explicit(&table[i].addr, memory_order_relaxed) > OVERFLOW_DELETED)
        i = (i + 1) & (slots - 1);
    if (atomic_load_explicit(&table[i].addr, memory_order_relaxed) == OVERFLOW_EMPTY)
        overflow_used++;
    atomic_store_explicit(&table[i].size_bytes, size_bytes, memory_order_relaxed);
    atomic_store_explicit(&table[i].addr, addr, memory_order_release);
}

/* Makes room for one more; drops deleted slots on the way. overflow_lock. */
static bool overflow_reserve(void)
{
    struct tm_state *state = &tm_state_export;
    uint64_t old_slots = state->overflow_slots, live = 0;
    struct tm_overflow_slot *old = overflow_table();
    if (old != NULL && (overflow_used + 1) * 2 <= old_slots)
        return true;
    for (uint64_t i = 0; i < old_slots; i++)
        live += atomic_load_explicit(&old[i].addr, memory_order_relaxed) > OVERFLOW_DELETED;
    uint64_t slots = FIRST_OVERFLOW_SLOTS;
    while (slots < (live + 1) * 4)
        slots *= 2;
    struct tm_overflow_slot *table = tm_mem_map(slots * sizeof(*table));
    if (table == NULL)
        return false;
    overflow_used = 0;
    for (uint64_t i = 0; i < old_slots; i++) {
        uint64_t addr = atomic_load_explicit(&old[i].addr, memory_order_relaxed);
        if (addr > OVERFLOW_DELETED)
            overflow_insert(table, slots, addr, old[i].size_bytes);
    }
    state->overflow_slots = 0; /* a reader outside sees no table rather than half of one */
    state->overflow_addr = (uint64_t)table;
    state->overflow_slots = slots;
    tm_mem_unmap(old, old_slots * sizeof(*old));
    return true;
}

bool tm_store_overflow_put(uint64_t addr, uint64_t size_bytes)
{
    pthread_mutex_lock(&overflow_lock);
    bool ok = overflow_reserve();
    if (ok)
        overflow_insert(overflow_table(), tm_state_export.overflow_slots, addr, size_bytes);
    pthread_mutex_unlock(&overflow_lock);
    return ok;
}

uint64_t tm_store_overflow_take(uint64_t addr)
{
    pthread_mutex_lock(&overflow_lock);
    struct tm_overflow_slot *slot = overflow_slot(addr);
    uint64_t size_bytes = slot ? atomic_load_explicit(&slot->size_bytes, memory_order_relaxed) : 0;
    if (slot != NULL)
        atomic_store_explicit(&slot->addr, OVERFLOW_DELETED, memory_order_relaxed);
    pthread_mutex_unlock(&overflow_lock);
    return size_bytes;
}

uint64_t tm_store_overflow_find(uint64_t addr)
{
    pthread_mutex_lock(&overflow_lock);
    struct tm_overflow_slot *slot = overflow_slot(addr);
    uint64_t size_bytes = slot ? atomic_load_explicit(&slot->size_bytes, memory_order_relaxed) : 0;
    pthread_mutex_unlock(&overflow_lock);
    return size_bytes;
}

uint64_t tm_store_entry_size_bytes(uint64_t addr, uint64_t entry)
{
    uint64_t size = tm_entry_size(entry);
    return size == TM_SIZE_OVERFLOW ? tm_store_overflow_find(addr) : size;
}

uint64_t tm_store_measure(size_t other_bytes)
{
    struct tm_state *state = &tm_state_export;
    const struct tm_vec *vecs[] = {&state->strings,      &state->sites,
                                   &state->nodes,        &tm_intern_node_counters,
                                   &state->counters_gil, &state->counters_shared};
    size_t total = other_bytes + tm_shadow_resident_bytes();
    for (size_t i = 0; i < sizeof(vecs) / sizeof(vecs[0]); i++)
        total += tm_vec_resident_bytes(vecs[i]);
    tm_mem_set_sparse(total);
    return tm_intern_free_bytes();
}

/* ---- sampling ---- */

__attribute__((noinline, cold)) struct tm_weight tm_store_scaled_weight(uint64_t size_bytes)
{
    double chance = tm_sampling_chance(size_bytes, tm_store.sample_mean_bytes);
    return (struct tm_weight){(int64_t)((double)size_bytes / chance + 0.5),
                              (int64_t)(TM_BLOCK_SCALE / chance + 0.5)};
}

static void count_page(uint64_t addr, int step)
{
    uint16_t *page = tm_sample_page(addr);
    uint16_t entries = __atomic_load_n(page, __ATOMIC_RELAXED);
    while (entries != TM_SAMPLE_PAGE_FULL &&
           !__atomic_compare_exchange_n(page, &entries, (uint16_t)(entries + step), true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void tm_store_note_page(uint64_t addr)
{
    count_page(addr, 1);
}

__attribute__((noinline, cold)) void tm_store_drop_page(uint64_t addr)
{
    count_page(addr, -1);
}

/* ---- marks and failed reallocs ---- */

void tm_store_put_back(uint64_t addr, struct tm_taken taken)
{
    uint64_t *slot = tm_shadow_find(addr);
    /* During a snapshot the old entry was logged as gone: it comes back as a young one. */
    uint64_t entry = taken.entry & ~((((uint64_t)1 << TM_GEN_BITS) - 1) << TM_GEN_SHIFT);
    if (tm_entry_size(entry) == TM_SIZE_OVERFLOW)
        tm_store_overflow_put(addr, taken.size_bytes); /* its slot was just given up: it fits */
    if (slot != NULL && tm_store.sample_mean_bytes != 0)
        tm_store_note_page(addr);
    if (slot != NULL)
        __atomic_store_n(slot, entry | tm_store.generation_bits, __ATOMIC_RELEASE);
}

struct tm_taken tm_store_lift(enum tm_lane lane, uint64_t addr)
{
    struct tm_taken taken = tm_store_take(lane, addr);
    if (taken.entry != 0) {
        struct tm_weight weight = tm_store_weight(taken.size_bytes);
        struct tm_counter *counter = tm_store_node_counter(lane, tm_entry_node(taken.entry));
        tm_store_count_gone(lane, counter, weight.bytes, (uint64_t)weight.blocks);
        tm_store_shift_traced(lane, -weight.bytes);
    }
    return taken;
}

void tm_store_drop_back(enum tm_lane lane, uint64_t addr, struct tm_taken taken)
{
    struct tm_weight weight = tm_store_weight(taken.size_bytes);
    struct tm_counter *counter = tm_store_node_counter(lane, tm_entry_node(taken.entry));
    tm_store_put_back(addr, taken);
    tm_store_count_gone(lane, counter, -weight.bytes, -(uint64_t)weight.blocks);
    tm_store_shift_traced(lane, weight.bytes);
}

bool tm_store_mark(uint64_t addr)
{
    uint64_t *slot = tm_shadow_find(addr);
    if (slot == NULL && (slot = tm_shadow_make(addr)) == NULL)
        return false;
    if (tm_store.sample_mean_bytes != 0 && __atomic_load_n(slot, __ATOMIC_RELAXED) == 0)
        tm_store_note_page(addr);
    __atomic_fetch_or(slot, TM_MARK_BIT, __ATOMIC_RELAXED);
    return true;
}

/* ---- snapshots ---- */

__attribute__((noinline, cold)) void tm_store_undo_append(enum tm_lane lane, uint64_t addr,
                                                          uint64_t entry)
{
    struct tm_undo_log *log = &tm_store.undo[lane];
    if (tm_entry_domain_plus_1(entry) == 0 || log->lost)
        return;
    if (log->used == log->capacity) {
        uint32_t capacity = log->capacity ? log->capacity * 2 : FIRST_UNDO_RECORDS;
        struct tm_undo *records = tm_mem_map((size_t)capacity * sizeof(*records));
        if (records == NULL) {
            log->lost = true;
            return;
        }
        for (uint32_t i = 0; i < log->used; i++)
            records[i] = log->records[i];
        tm_mem_unmap(log->records, (size_t)log->capacity * sizeof(*records));
        log->records = records;
        log->capacity = capacity;
    }
    log->records[log->used++] =
        (struct tm_undo){addr, entry, tm_store_entry_size_bytes(addr, entry)};
}

void tm_store_undo_free(struct tm_undo_log *log)
{
    tm_mem_unmap(log->records, (size_t)log->capacity * sizeof(*log->records));
    *log = (struct tm_undo_log){0};
}

struct retag {
    uint64_t mask;
};

static void retag_chunk(void *data, uint64_t base_addr, uint64_t *entries)
{
    struct retag *retag = data;
    (void)base_addr;
    for (uint32_t i = 0; i < tm_shadow.chunk_entries; i++)
        if (entries[i] & retag->mask)
            entries[i] &= ~retag->mask;
}

void tm_store_snapshot_begin(void)
{
    if (tm_store.generation + 1 >= 1u << TM_GEN_BITS) {
        /* The generations are used up: all that lives becomes "older than this session's". */
        struct retag retag = {(((uint64_t)1 << TM_GEN_BITS) - 1) << TM_GEN_SHIFT};
        tm_shadow_walk(retag_chunk, &retag);
        tm_store.generation = 0;
    }
    tm_store.generation++;
    tm_store.generation_bits = (uint64_t)tm_store.generation << TM_GEN_SHIFT;
    tm_state_export.generation = tm_store.generation;
    tm_store.snapshot_active = true;
}

void tm_store_snapshot_end(struct tm_undo_log ret[TM_LANES])
{
    tm_store.snapshot_active = false;
    for (int lane = 0; lane < TM_LANES; lane++) {
        ret[lane] = tm_store.undo[lane];
        tm_store.undo[lane] = (struct tm_undo_log){0};
    }
}
