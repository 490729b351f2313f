// SPDX-License-Identifier: MIT
/*
 * Memory of the payload's own: anonymous mappings, never the allocators that
 * are traced and never malloc. Counted in tm_state_export.own_bytes. A forked
 * child does not inherit it (MADV_DONTFORK): fork stays as cheap as it was.
 */
#pragma once

#include <stddef.h>

/* Zeroed memory, rounded up to pages; NULL where the system has none. Freed with tm_mem_unmap and
 * the same size. Leaves errno alone. */
void *tm_mem_map(size_t n_bytes);
/* Accepts NULL. Leaves errno alone. */
void tm_mem_unmap(void *memory, size_t n_bytes);
/* Gives the pages back and leaves zeros; for whole pages only. */
void tm_mem_discard(void *memory, size_t n_bytes);
