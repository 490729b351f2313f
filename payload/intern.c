// SPDX-License-Identifier: MIT
#include "payload/intern.h"

#include <string.h>

#include "payload/filter.h"
#include "payload/hash.h"
#include "payload/index.h"
#include "payload/mem.h"
#include "payload/store.h"

enum { ARENA_BYTES = 1 << 16 };

/* Bytes of strings: arenas that are chained only to be freed. */
struct arena {
    struct arena *next;
    uint64_t total_bytes;
    uint64_t used_bytes; /* this head included */
};

pthread_mutex_t tm_intern_lock = PTHREAD_MUTEX_INITIALIZER;

struct tm_vec tm_intern_node_counters;

static struct tm_index string_index, site_index, node_index; /* tm_intern_lock */
static struct arena *arenas;                                 /* tm_intern_lock */

static void set_node_counter(uint32_t node, uint32_t site)
{
    *(struct tm_counter **)tm_vec_at(&tm_intern_node_counters, node, sizeof(void *)) =
        tm_vec_at(&tm_state_export.counters_gil, site, sizeof(struct tm_counter));
}

bool tm_intern_init(void)
{
    struct tm_state *state = &tm_state_export;
    if (!tm_vec_init(&state->strings, sizeof(struct tm_string)) ||
        !tm_vec_init(&state->sites, sizeof(struct tm_site)) ||
        !tm_vec_init(&state->nodes, sizeof(struct tm_node)) ||
        !tm_vec_init(&tm_intern_node_counters, sizeof(struct tm_counter *)) ||
        !tm_vec_reserve(&state->sites, 0) || !tm_vec_reserve(&state->nodes, 0) ||
        !tm_vec_reserve(&tm_intern_node_counters, 0)) {
        tm_intern_done();
        return false;
    }
    node_index.keeps_tables = tm_lanes_used > TM_LANE_SHARED + 1;
    /* Site 0 stands for "no frame", node 0 for the empty traceback. */
    *tm_intern_site_at(0) = (struct tm_site){.file = TM_NONE, .function = TM_NONE};
    atomic_store_explicit(&state->sites.count, 1, memory_order_release);
    *tm_intern_node_at(0) = (struct tm_node){.parent = TM_NONE, .site = 0};
    set_node_counter(0, 0);
    atomic_store_explicit(&state->nodes.count, 1, memory_order_release);
    return true;
}

void tm_intern_done(void)
{
    tm_index_done(&string_index);
    tm_index_done(&site_index);
    tm_index_done(&node_index);
    while (arenas != NULL) {
        struct arena *arena = arenas;
        arenas = arena->next;
        tm_mem_unmap(arena, arena->total_bytes);
    }
    tm_vec_done(&tm_state_export.strings);
    tm_vec_done(&tm_state_export.sites);
    tm_vec_done(&tm_state_export.nodes);
    tm_vec_done(&tm_intern_node_counters);
}

void tm_intern_abandon(void)
{
    pthread_mutex_init(&tm_intern_lock, NULL);
    string_index = site_index = node_index = (struct tm_index){0};
    arenas = NULL;
    tm_state_export.strings = tm_state_export.sites = tm_state_export.nodes = (struct tm_vec){0};
    tm_intern_node_counters = (struct tm_vec){0};
}

uint64_t tm_intern_free_bytes(void)
{
    const struct tm_index *indexes[] = {&string_index, &site_index, &node_index};
    pthread_mutex_lock(&tm_intern_lock);
    uint64_t free_bytes = arenas ? arenas->total_bytes - arenas->used_bytes : 0;
    for (size_t i = 0; i < sizeof(indexes) / sizeof(indexes[0]); i++)
        free_bytes +=
            (uint64_t)(indexes[i]->capacity - indexes[i]->used) * sizeof(struct tm_index_slot);
    pthread_mutex_unlock(&tm_intern_lock);
    return free_bytes;
}

static char *arena_alloc(uint32_t n_bytes)
{
    if (arenas == NULL || arenas->total_bytes - arenas->used_bytes < n_bytes) {
        uint64_t total = sizeof(struct arena) + n_bytes;
        if (total < ARENA_BYTES)
            total = ARENA_BYTES;
        struct arena *arena = tm_mem_map(total);
        if (arena == NULL)
            return NULL;
        *arena = (struct arena){arenas, total, sizeof(struct arena)};
        arenas = arena;
    }
    char *bytes = (char *)arenas + arenas->used_bytes;
    arenas->used_bytes += n_bytes;
    return bytes;
}

/* Takes the next id of `vec` and points at its element; the caller fills it and publishes. */
static void *vec_next(struct tm_vec *vec, uint32_t limit, uint32_t *ret_id)
{
    uint32_t id = atomic_load_explicit(&vec->count, memory_order_relaxed);
    if (id >= limit || !tm_vec_reserve(vec, id))
        return NULL;
    *ret_id = id;
    return tm_vec_at(vec, id, vec->elem_bytes);
}

static void vec_publish(struct tm_vec *vec, uint32_t id)
{
    atomic_store_explicit(&vec->count, id + 1, memory_order_release);
}

uint32_t tm_intern_string_locked(const char *bytes, uint32_t n_bytes)
{
    uint32_t hash = tm_hash_bytes(bytes, n_bytes), id;
    if (!tm_index_reserve(&string_index))
        return TM_NONE;
    uint32_t mask = tm_index_mask(&string_index);
    for (uint32_t i = hash & mask; string_index.slots[i].id_plus_1 != 0; i = (i + 1) & mask) {
        if (string_index.slots[i].hash != hash)
            continue;
        id = string_index.slots[i].id_plus_1 - 1;
        struct tm_string *known = tm_intern_string_at(id);
        if (known->n_bytes == n_bytes && memcmp((void *)known->addr, bytes, n_bytes) == 0)
            return id;
    }
    struct tm_string *string = vec_next(&tm_state_export.strings, TM_NONE, &id);
    char *copy = string ? arena_alloc(n_bytes) : NULL;
    if (copy == NULL)
        return TM_NONE;
    memcpy(copy, bytes, n_bytes);
    *string = (struct tm_string){(uint64_t)copy, n_bytes, hash};
    vec_publish(&tm_state_export.strings, id);
    tm_index_add(&string_index, hash, id);
    return id;
}

static uint32_t site_hash(const struct tm_site *site)
{
    uint64_t hash = tm_hash_mix(0, (uint64_t)site->file << 32 | site->function);
    hash = tm_hash_mix(hash, (uint64_t)(uint32_t)site->line << 32 | (uint32_t)site->first_line);
    return tm_hash_fold(tm_hash_mix(hash, site->address));
}

static bool site_same(const struct tm_site *a, const struct tm_site *b)
{
    return a->file == b->file && a->function == b->function && a->line == b->line &&
           a->first_line == b->first_line && a->address == b->address &&
           (a->flags & TM_SITE_NATIVE) == (b->flags & TM_SITE_NATIVE);
}

uint32_t tm_intern_site_locked(const struct tm_site *site)
{
    uint32_t hash = site_hash(site), id;
    if (!tm_index_reserve(&site_index))
        return TM_NONE;
    uint32_t mask = tm_index_mask(&site_index);
    for (uint32_t i = hash & mask; site_index.slots[i].id_plus_1 != 0; i = (i + 1) & mask) {
        id = site_index.slots[i].id_plus_1 - 1;
        if (site_index.slots[i].hash == hash && site_same(tm_intern_site_at(id), site))
            return id;
    }
    struct tm_site *slot = vec_next(&tm_state_export.sites, TM_NONE, &id);
    if (slot == NULL || !tm_vec_reserve(&tm_state_export.counters_gil, id) ||
        !tm_vec_reserve(&tm_state_export.counters_shared, id))
        return TM_NONE;
    *slot = *site;
    slot->hash = hash;
    slot->flags |= tm_filter_site_flags(slot);
    vec_publish(&tm_state_export.sites, id);
    tm_index_add(&site_index, hash, id);
    return id;
}

static uint32_t node_hash(uint32_t parent, uint32_t site)
{
    return tm_hash_fold(tm_hash_mix(TM_HASH_K2, (uint64_t)parent << 32 | site));
}

uint32_t tm_intern_node_locked(uint32_t parent, uint32_t site)
{
    uint32_t hash = node_hash(parent, site), id;
    if (!tm_index_reserve(&node_index))
        return TM_NONE;
    uint32_t mask = tm_index_mask(&node_index);
    for (uint32_t i = hash & mask; node_index.slots[i].id_plus_1 != 0; i = (i + 1) & mask) {
        if (node_index.slots[i].hash != hash)
            continue;
        id = node_index.slots[i].id_plus_1 - 1;
        struct tm_node *known = tm_intern_node_at(id);
        if (known->parent == parent && known->site == site)
            return id;
    }
    struct tm_node *node = vec_next(&tm_state_export.nodes, 1u << TM_NODE_BITS, &id);
    if (node == NULL || !tm_vec_reserve(&tm_intern_node_counters, id))
        return TM_NONE;
    set_node_counter(id, site);
    *node = (struct tm_node){.parent = parent, .site = site, .hash = hash};
    node->depth = (uint16_t)(tm_intern_node_at(parent)->depth + 1);
    node->flags = tm_filter_node_flags(node);
    vec_publish(&tm_state_export.nodes, id);
    tm_index_add(&node_index, hash, id);
    return id;
}

/* Without the lock; TM_NONE: it is not there, or is being added. */
static uint32_t find_node(uint32_t parent, uint32_t site)
{
    const struct tm_index_table *table = tm_index_table(&node_index);
    uint32_t hash = node_hash(parent, site);
    if (table == NULL)
        return TM_NONE;
    for (uint32_t i = hash;; i++) {
        struct tm_index_slot slot = tm_index_slot_at(table, i & (table->capacity - 1));
        if (slot.id_plus_1 == 0)
            return TM_NONE;
        if (slot.hash != hash)
            continue;
        const struct tm_node *known = tm_intern_node_at(slot.id_plus_1 - 1);
        if (known->parent == parent && known->site == site)
            return slot.id_plus_1 - 1;
    }
}

uint32_t tm_intern_path(const uint32_t *sites, uint32_t n_sites)
{
    uint32_t node = 0, left = n_sites;
    if (node_index.keeps_tables)
        for (uint32_t found; left > 0; left--, node = found)
            if ((found = find_node(node, sites[left - 1])) == TM_NONE)
                break;
    if (left == 0)
        return node;
    pthread_mutex_lock(&tm_intern_lock);
    for (; left > 0 && node != TM_NONE; left--)
        node = tm_intern_node_locked(node, sites[left - 1]);
    pthread_mutex_unlock(&tm_intern_lock);
    return node;
}
