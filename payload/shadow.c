// SPDX-License-Identifier: MIT
#include "payload/shadow.h"

#include "payload/mem.h"

struct tm_shadow tm_shadow;

static size_t chunk_bytes(void)
{
    return (size_t)tm_shadow.chunk_entries * sizeof(uint64_t);
}

bool tm_shadow_init(uint32_t granule_shift)
{
    tm_shadow.granule_shift = granule_shift;
    tm_shadow.chunk_entries = 1u << (TM_CHUNK_SHIFT - granule_shift);
    atomic_store(&tm_shadow.chunks_made, 0);
    tm_shadow.l1 = tm_mem_map_sparse(TM_L1_ENTRIES * sizeof(uint64_t));
    tm_state_export.granule_shift = granule_shift;
    tm_state_export.l1_addr = (uint64_t)tm_shadow.l1;
    return tm_shadow.l1 != NULL;
}

void tm_shadow_done(void)
{
    if (tm_shadow.l1 == NULL)
        return;
    tm_state_export.l1_addr = 0;
    for (uint32_t i = 0; i < TM_L1_ENTRIES; i++) {
        uint64_t *l2 = tm_shadow.l1[i];
        if (l2 == NULL)
            continue;
        for (uint32_t k = 0; k < TM_L2_ENTRIES; k++)
            tm_mem_unmap_sparse((void *)l2[k], chunk_bytes());
        tm_mem_unmap_sparse(l2, TM_L2_ENTRIES * sizeof(uint64_t));
    }
    tm_mem_unmap_sparse(tm_shadow.l1, TM_L1_ENTRIES * sizeof(uint64_t));
    tm_shadow.l1 = NULL;
}

void tm_shadow_abandon(void)
{
    tm_shadow = (struct tm_shadow){0};
    tm_state_export.l1_addr = 0;
}

/* Installs a zeroed table in *place unless another thread was faster. */
static uint64_t install(uint64_t *place, size_t n_bytes)
{
    uint64_t table = (uint64_t)tm_mem_map_sparse(n_bytes), nothing = 0;
    if (table == 0)
        return 0;
    if (__atomic_compare_exchange_n(place, &nothing, table, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return table;
    tm_mem_unmap_sparse((void *)table, n_bytes);
    return nothing;
}

__attribute__((noinline)) uint64_t *tm_shadow_make(uint64_t addr)
{
    /* Two blocks in one granule would overwrite each other's entry. */
    if (addr >> 47 != 0 || (addr & ((1u << tm_shadow.granule_shift) - 1)) != 0)
        return NULL;
    uint64_t *l1_place = (uint64_t *)&tm_shadow.l1[addr >> 36];
    uint64_t l2 = __atomic_load_n(l1_place, __ATOMIC_ACQUIRE);
    if (l2 == 0 && (l2 = install(l1_place, TM_L2_ENTRIES * sizeof(uint64_t))) == 0)
        return NULL;
    uint64_t *l2_place = (uint64_t *)l2 + ((addr >> TM_CHUNK_SHIFT) & (TM_L2_ENTRIES - 1));
    if (__atomic_load_n(l2_place, __ATOMIC_ACQUIRE) == 0) {
        /* Counted before it can be seen: the count is never below the number of chunks. */
        atomic_fetch_add(&tm_shadow.chunks_made, 1);
        if (install(l2_place, chunk_bytes()) == 0)
            return NULL;
    }
    return tm_shadow_find(addr);
}

void tm_shadow_walk(tm_shadow_visit *visit, void *data)
{
    for (uint64_t i = 0; i < TM_L1_ENTRIES; i++) {
        uint64_t *l2 = __atomic_load_n(&tm_shadow.l1[i], __ATOMIC_ACQUIRE);
        if (l2 == NULL)
            continue;
        for (uint64_t k = 0; k < TM_L2_ENTRIES; k++) {
            uint64_t chunk = __atomic_load_n(&l2[k], __ATOMIC_ACQUIRE);
            if (chunk != 0)
                visit(data, i << 36 | k << TM_CHUNK_SHIFT, (uint64_t *)chunk);
        }
    }
}

/* ---- empty pages go back ---- */

enum { PAGE_ENTRIES = TM_MEM_PAGE_BYTES / sizeof(uint64_t) };

static bool page_is_empty(const uint64_t *entries)
{
    uint64_t any = 0;
    for (uint32_t i = 0; i < PAGE_ENTRIES && any == 0; i++)
        any = __atomic_load_n(&entries[i], __ATOMIC_RELAXED);
    return any == 0;
}

static void measure_chunk(void *data, uint64_t base_addr, uint64_t *entries)
{
    (void)base_addr;
    *(size_t *)data += tm_mem_resident_bytes(entries, chunk_bytes(), NULL);
}

/* By content: walks read these tables from end to end, and a page that was only read is the
 * kernel's page of zeros, which mincore counts. */
static size_t table_bytes(const uint64_t *table, uint32_t n_entries)
{
    size_t total = 0;
    for (uint32_t i = 0; table != NULL && i < n_entries; i += PAGE_ENTRIES)
        if (!page_is_empty(table + i))
            total += TM_MEM_PAGE_BYTES;
    return total;
}

size_t tm_shadow_resident_bytes(void)
{
    size_t total = table_bytes((const uint64_t *)tm_shadow.l1, TM_L1_ENTRIES);
    for (uint64_t i = 0; i < TM_L1_ENTRIES; i++)
        total += table_bytes(__atomic_load_n(&tm_shadow.l1[i], __ATOMIC_ACQUIRE), TM_L2_ENTRIES);
    tm_shadow_walk(measure_chunk, &total);
    return total;
}

static void find_empty(void *data, uint64_t base_addr, uint64_t *entries)
{
    struct tm_shadow_trim *trim = data;
    unsigned char resident[TM_SHADOW_CHUNK_PAGES];
    uint32_t n_pages = tm_shadow.chunk_entries / PAGE_ENTRIES;
    if (base_addr < trim->next_base || trim->n >= TM_SHADOW_TRIM_PAGES)
        return;
    tm_mem_resident_bytes(entries, chunk_bytes(), resident);
    for (uint32_t i = 0; i < n_pages; i++)
        if (resident[i] && page_is_empty(entries + i * PAGE_ENTRIES))
            trim->pages[trim->n++] = entries + i * PAGE_ENTRIES;
    trim->next_base = base_addr + (1ull << TM_CHUNK_SHIFT);
}

bool tm_shadow_trim_find(struct tm_shadow_trim *trim)
{
    trim->n = 0;
    tm_shadow_walk(find_empty, trim);
    return trim->n != 0;
}

size_t tm_shadow_trim_do(struct tm_shadow_trim *trim)
{
    size_t discarded = 0;
    for (uint32_t i = 0, run; i < trim->n; i += run ? run : 1) {
        /* One call for neighbours that are still empty. */
        for (run = 0;
             i + run < trim->n && trim->pages[i + run] == trim->pages[i] + run * PAGE_ENTRIES &&
             page_is_empty(trim->pages[i + run]);
             run++)
            ;
        if (run != 0)
            tm_mem_discard(trim->pages[i], (size_t)run * TM_MEM_PAGE_BYTES);
        discarded += (size_t)run * TM_MEM_PAGE_BYTES;
    }
    return discarded;
}
