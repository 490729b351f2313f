// SPDX-License-Identifier: MIT
/*
 * The kernel puts mappings side by side, from the top down. What is put in the middle of a gap of
 * terabytes is met by nobody else, and so its address can be known before it is mapped.
 */
#include "injector/inject_place.h"

#define PAGE_BYTES 4096u
#define USER_END_ADDR                                                                              \
    (1ull << 47) /* without five levels of page tables, which nobody gets unasked */
#define MIN_GAP_BYTES (1ull << 40)

uint64_t tm_place_find(const tm_maps *maps)
{
    uint64_t from = 0, gap_addr = 0, gap_bytes = 0;
    for (size_t i = 0; i <= maps->count; i++) {
        uint64_t to =
            i < maps->count ? MIN(maps->items[i].start_addr, USER_END_ADDR) : USER_END_ADDR;
        if (to > from && to - from > gap_bytes) {
            gap_addr = from;
            gap_bytes = to - from;
        }
        if (i < maps->count)
            from = maps->items[i].end_addr;
    }
    if (gap_bytes < MIN_GAP_BYTES)
        return 0;
    uint64_t half_pages = gap_bytes / 2 / PAGE_BYTES;
    uint64_t number = (uint64_t)g_random_int() << 32 | g_random_int();
    return ((gap_addr + gap_bytes / 4) & ~(uint64_t)(PAGE_BYTES - 1)) +
           number % half_pages * PAGE_BYTES;
}
