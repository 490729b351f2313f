// SPDX-License-Identifier: MIT
#include "payload/mem.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "payload/state.h"

static _Atomic size_t sparse_bytes; /* counted in own_bytes */

static size_t round_up(size_t n_bytes)
{
    return (n_bytes + TM_MEM_PAGE_BYTES - 1) & ~(size_t)(TM_MEM_PAGE_BYTES - 1);
}

void *tm_mem_map_sparse(size_t n_bytes)
{
    int saved_errno = errno;
    size_t total = round_up(n_bytes);
    void *memory = mmap(NULL, total, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        errno = saved_errno;
        return NULL;
    }
    /* Tables are touched here and there: a huge page would make every touch cost 2 MiB. */
    madvise(memory, total, MADV_NOHUGEPAGE);
    madvise(memory, total, MADV_DONTFORK);
    errno = saved_errno;
    return memory;
}

void *tm_mem_map(size_t n_bytes)
{
    void *memory = tm_mem_map_sparse(n_bytes);
    if (memory != NULL)
        atomic_fetch_add_explicit(&tm_state_export.own_bytes, round_up(n_bytes),
                                  memory_order_relaxed);
    return memory;
}

void tm_mem_unmap_sparse(void *memory, size_t n_bytes)
{
    if (memory == NULL)
        return;
    int saved_errno = errno;
    munmap(memory, round_up(n_bytes));
    errno = saved_errno;
}

void tm_mem_unmap(void *memory, size_t n_bytes)
{
    if (memory == NULL)
        return;
    tm_mem_unmap_sparse(memory, n_bytes);
    atomic_fetch_sub_explicit(&tm_state_export.own_bytes, round_up(n_bytes), memory_order_relaxed);
}

size_t tm_mem_resident_bytes(const void *memory, size_t n_bytes, unsigned char *ret_pages)
{
    enum { AT_ONCE = 256 };
    unsigned char pages[AT_ONCE];
    int saved_errno = errno;
    size_t n_pages = round_up(n_bytes) / TM_MEM_PAGE_BYTES, resident = 0;
    for (size_t i = 0; memory != NULL && i < n_pages; i += AT_ONCE) {
        size_t n = n_pages - i < AT_ONCE ? n_pages - i : AT_ONCE;
        if (mincore((char *)memory + i * TM_MEM_PAGE_BYTES, n * TM_MEM_PAGE_BYTES, pages) != 0)
            memset(pages, 1, n); /* not to be had: what is mapped is the safe number */
        for (size_t k = 0; k < n; k++) {
            resident += pages[k] & 1;
            if (ret_pages != NULL)
                ret_pages[i + k] = pages[k] & 1;
        }
    }
    errno = saved_errno;
    return resident * TM_MEM_PAGE_BYTES;
}

void tm_mem_set_sparse(size_t resident_bytes)
{
    size_t before = atomic_exchange(&sparse_bytes, resident_bytes);
    atomic_fetch_add(&tm_state_export.own_bytes, resident_bytes - before);
}

void tm_mem_discard(void *memory, size_t n_bytes)
{
    int saved_errno = errno;
    madvise(memory, n_bytes, MADV_DONTNEED);
    errno = saved_errno;
}
