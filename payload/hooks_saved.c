// SPDX-License-Identifier: MIT
/*
 * Whether somebody has kept a copy of our hooks. A tool that stood in front of us and has gone may
 * call them still: tracemalloc that was started and stopped keeps what it found, and its next start
 * allocates by that before it looks anew (CPython 3.4 to 3.13, Modules/_tracemalloc.c and from 3.12
 * on Python/tracemalloc.c, tracemalloc_start). Such copies are variables of some module.
 */
#include <link.h>
#include <stdint.h>

#include "payload/gil.h"
#include "payload/hooks.h"
#include "payload/mem.h"
#include "payload/native/stack.h"

struct search {
    uint64_t code_start, code_end; /* ours; the same until it has been found */
    bool found;
};

static const ElfW(Phdr) * segment_of(const struct dl_phdr_info *info, uint64_t addr)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD &&
            addr - (info->dlpi_addr + segment->p_vaddr) < segment->p_memsz)
            return segment;
    }
    return NULL;
}

static int find_own(struct dl_phdr_info *info, size_t size, void *data)
{
    struct search *search = data;
    (void)size;
    const ElfW(Phdr) *code = segment_of(info, (uint64_t)&tm_hooks_are_kept);
    if (code == NULL)
        return 0;
    search->code_start = info->dlpi_addr + code->p_vaddr;
    search->code_end = search->code_start + code->p_memsz;
    return 1;
}

/* Pages that the program has made unreadable are passed over. */
static bool is_in(const struct search *search, uint64_t start, uint64_t end)
{
    for (uint64_t at = (start + 7) & ~(uint64_t)7; at + sizeof(uint64_t) <= end;) {
        uint64_t page_end = (at | (TM_MEM_PAGE_BYTES - 1)) + 1;
        if (!tm_native_is_readable(at)) {
            at = page_end;
            continue;
        }
        for (; at < page_end && at + sizeof(uint64_t) <= end; at += sizeof(uint64_t)) {
            uint64_t word = *(const uint64_t *)at;
            if (word - search->code_start < search->code_end - search->code_start &&
                tm_hooks_was_given(word))
                return true;
        }
    }
    return false;
}

static int look_at_module(struct dl_phdr_info *info, size_t size, void *data)
{
    struct search *search = data;
    (void)size;
    if (segment_of(info, search->code_start) != NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum && !search->found; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uint64_t start = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_W) != 0)
            search->found = is_in(search, start, start + segment->p_memsz);
    }
    return search->found;
}

bool tm_hooks_are_kept(void)
{
    struct search search = {0, 0, false};
    int gil;
    /* No child shall be forked with the loader's lock (payload/native/table.c). */
    if (tm_gil_take(&gil) < 0)
        return true; /* the interpreter goes down */
    dl_iterate_phdr(find_own, &search);
    if (search.code_start != search.code_end)
        dl_iterate_phdr(look_at_module, &search);
    tm_gil_drop(gil);
    return search.found || search.code_start == search.code_end; /* cannot tell */
}
