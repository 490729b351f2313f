// SPDX-License-Identifier: MIT
#include "payload/vec.h"

#include "payload/mem.h"

bool tm_vec_init(struct tm_vec *vec, uint32_t elem_bytes)
{
    vec->elem_bytes = elem_bytes;
    atomic_store_explicit(&vec->count, 0, memory_order_relaxed);
    vec->dir_addr = (uint64_t)tm_mem_map_sparse(TM_VEC_SEGMENTS * sizeof(uint64_t));
    return vec->dir_addr != 0;
}

void tm_vec_done(struct tm_vec *vec)
{
    uint64_t *dir = (uint64_t *)vec->dir_addr;
    if (dir == NULL)
        return;
    /* Segments may have been reserved out of order (counters), so that the first hole is no end. */
    for (uint32_t i = 0; i < TM_VEC_SEGMENTS; i++)
        if (dir[i] != 0)
            tm_mem_unmap_sparse((void *)dir[i], (size_t)TM_VEC_SEGMENT_ELEMS * vec->elem_bytes);
    tm_mem_unmap_sparse(dir, TM_VEC_SEGMENTS * sizeof(uint64_t));
    vec->dir_addr = 0;
    atomic_store_explicit(&vec->count, 0, memory_order_relaxed);
}

bool tm_vec_reserve(struct tm_vec *vec, uint32_t index)
{
    uint64_t *dir = (uint64_t *)vec->dir_addr;
    uint32_t slot = index >> TM_VEC_SHIFT;
    if (dir == NULL || slot >= TM_VEC_SEGMENTS)
        return false;
    if (__atomic_load_n(&dir[slot], __ATOMIC_ACQUIRE) != 0)
        return true;
    size_t segment_bytes = (size_t)TM_VEC_SEGMENT_ELEMS * vec->elem_bytes;
    uint64_t segment = (uint64_t)tm_mem_map_sparse(segment_bytes);
    if (segment == 0)
        return false;
    uint64_t nothing = 0;
    if (!__atomic_compare_exchange_n(&dir[slot], &nothing, segment, false, __ATOMIC_RELEASE,
                                     __ATOMIC_ACQUIRE))
        tm_mem_unmap_sparse((void *)segment, segment_bytes);
    return true;
}

size_t tm_vec_resident_bytes(const struct tm_vec *vec)
{
    const uint64_t *dir = (const uint64_t *)vec->dir_addr;
    if (dir == NULL)
        return 0;
    size_t total = tm_mem_resident_bytes(dir, TM_VEC_SEGMENTS * sizeof(uint64_t), NULL);
    /* Segments come in the order of their index, counters' nearly so. */
    for (uint32_t i = 0, holes = 0; i < TM_VEC_SEGMENTS && holes < 64; i++) {
        uint64_t segment = __atomic_load_n(&dir[i], __ATOMIC_ACQUIRE);
        holes = segment ? 0 : holes + 1;
        total += tm_mem_resident_bytes((void *)segment,
                                       (size_t)TM_VEC_SEGMENT_ELEMS * vec->elem_bytes, NULL);
    }
    return total;
}
