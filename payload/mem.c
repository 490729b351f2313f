// SPDX-License-Identifier: MIT
#include "payload/mem.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "payload/state.h"

enum { PAGE_BYTES = 4096 };

static size_t round_up(size_t n_bytes)
{
    return (n_bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

void *tm_mem_map(size_t n_bytes)
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
    atomic_fetch_add_explicit(&tm_state_export.own_bytes, total, memory_order_relaxed);
    errno = saved_errno;
    return memory;
}

void tm_mem_unmap(void *memory, size_t n_bytes)
{
    if (memory == NULL)
        return;
    int saved_errno = errno;
    size_t total = round_up(n_bytes);
    munmap(memory, total);
    atomic_fetch_sub_explicit(&tm_state_export.own_bytes, total, memory_order_relaxed);
    errno = saved_errno;
}

void tm_mem_discard(void *memory, size_t n_bytes)
{
    int saved_errno = errno;
    madvise(memory, n_bytes, MADV_DONTNEED);
    errno = saved_errno;
}
