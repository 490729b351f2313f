// SPDX-License-Identifier: MIT
/*
 * Memory of the payload's own: anonymous mappings, never the allocators that
 * are traced and never malloc. tm_state_export.own_bytes counts what of it is in
 * use: the dense mappings as a whole, of the sparse ones what was found resident
 * when they were last measured. A forked child does not inherit it
 * (MADV_DONTFORK): fork stays as cheap as it was.
 */
#pragma once

#include <stddef.h>

enum { TM_MEM_PAGE_BYTES = 4096 }; /* where the system's are larger, only the numbers get coarser */

/* Zeroed memory, rounded up to pages; NULL where the system has none. Freed with tm_mem_unmap and
 * the same size. Leaves errno alone. */
void *tm_mem_map(size_t n_bytes);
/* The same for tables of which only some pages will be touched, and for what is held for moments
 * only: own_bytes does not count it. Freed with tm_mem_unmap_sparse. */
void *tm_mem_map_sparse(size_t n_bytes);
void tm_mem_unmap_sparse(void *memory, size_t n_bytes);
/* Bytes of it that are in memory. ret_pages (NULL: not wanted): a byte for each page, not 0 where
 * it is; n_bytes / TM_MEM_PAGE_BYTES of them. */
size_t tm_mem_resident_bytes(const void *memory, size_t n_bytes, unsigned char *ret_pages);
/* Says how much of the sparse mappings is resident. */
void tm_mem_set_sparse(size_t resident_bytes);
/* Accepts NULL. Leaves errno alone. */
void tm_mem_unmap(void *memory, size_t n_bytes);
/* Gives the pages back and leaves zeros; for whole pages only. */
void tm_mem_discard(void *memory, size_t n_bytes);
