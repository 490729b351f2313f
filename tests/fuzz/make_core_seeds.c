// SPDX-License-Identifier: MIT
/*
 * Writes seeds for fuzz_core: a core of a made-up process with a payload's
 * state and a handful of traces. The big tables are mostly zeros: all their
 * pages are segments that share one page of the file.
 */
#include <elf.h>
#include <stdio.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "format/state.h"

enum { PAGE = 4096, PAGES_MAX = 2048, NAME_BYTES = 64 };

static struct page {
    uint64_t addr;
    uint8_t bytes[PAGE];
} pages[PAGES_MAX];
static unsigned n_pages;

static struct page *page_at(uint64_t addr)
{
    uint64_t base = addr & ~(uint64_t)(PAGE - 1);
    for (unsigned i = 0; i < n_pages; i++)
        if (pages[i].addr == base)
            return &pages[i];
    if (n_pages == PAGES_MAX)
        abort();
    pages[n_pages].addr = base;
    return &pages[n_pages++];
}

static void put(uint64_t addr, const void *data, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        page_at(addr + i)->bytes[(addr + i) % PAGE] = ((const uint8_t *)data)[i];
}

static void put_u64(uint64_t addr, uint64_t value)
{
    put(addr, &value, sizeof(value));
}

static void reserve(uint64_t addr, size_t n_bytes)
{
    for (size_t at = 0; at < n_bytes; at += PAGE)
        page_at(addr + at);
}

/* Fixed places in the process. */
#define STATE 0x7f0000002000ull
#define L1 0x10000000ull
#define L2 0x11000000ull
#define CHUNK 0x12000000ull
#define STRINGS 0x13000000ull /* directory; the segment follows 1 MiB behind */
#define SITES 0x14000000ull
#define NODES 0x15000000ull
#define COUNTERS 0x16000000ull
#define OVERFLOW 0x17000000ull
#define TEXT 0x18000000ull
#define BLOCKS 0x500000000000ull

static struct tm_vec vec(uint64_t dir, uint32_t elem_bytes, uint32_t count)
{
    put_u64(dir, dir + 0x100000);
    return (struct tm_vec){.dir_addr = dir, .elem_bytes = elem_bytes, .count = count};
}

static void put_tables(struct tm_state *state)
{
    static const char text[] = "a.pymain";
    struct tm_string strings[] = {{TEXT, 4, 0}, {TEXT + 4, 4, 0}};
    struct tm_site sites[] = {{.file = TM_NONE, .function = TM_NONE},
                              {.file = 0, .function = 1, .line = 3, .first_line = 1},
                              {.file = 0, .function = 1, .line = 7, .first_line = 1}};
    struct tm_node nodes[] = {
        {.parent = TM_NONE}, {.parent = 0, .site = 1}, {.parent = 1, .site = 2}};
    struct tm_counter counters[] = {{0}, {4096, 3, 1, 8192}, {64, 1, 0, 64}};
    put(TEXT, text, sizeof(text));
    state->strings = vec(STRINGS, sizeof(*strings), 2);
    state->sites = vec(SITES, sizeof(*sites), 3);
    state->nodes = vec(NODES, sizeof(*nodes), 3);
    state->counters_gil = state->counters_shared = vec(COUNTERS, sizeof(*counters), 0);
    put(STRINGS + 0x100000, strings, sizeof(strings));
    put(SITES + 0x100000, sites, sizeof(sites));
    put(NODES + 0x100000, nodes, sizeof(nodes));
    put(COUNTERS + 0x100000, counters, sizeof(counters));
}

static void put_traces(struct tm_state *state)
{
    uint64_t chunk = 2ull << TM_DOMAIN_SHIFT | 1ull << TM_GEN_SHIFT;
    reserve(L1, TM_L1_ENTRIES * 8);
    reserve(L2, TM_L2_ENTRIES * 8);
    reserve(CHUNK, 8 << (TM_CHUNK_SHIFT - 4));
    put_u64(L1 + (BLOCKS >> 36) * 8, L2);
    put_u64(L2, CHUNK);
    put_u64(CHUNK, chunk | 1ull << TM_NODE_SHIFT | 2048);
    put_u64(CHUNK + 8 * 200, chunk | 2ull << TM_NODE_SHIFT | 64 | TM_MARK_BIT);
    put_u64(CHUNK + 8 * 300, chunk | 1ull << TM_NODE_SHIFT | TM_SIZE_OVERFLOW);
    put_u64(CHUNK + 8 * 400, chunk | 900ull << TM_NODE_SHIFT | 64); /* torn */
    uint64_t addr = BLOCKS + 300 * 16, slots = 256;
    uint64_t i = (addr * 0x9e3779b97f4a7c15ull >> 32) & (slots - 1);
    reserve(OVERFLOW, slots * sizeof(struct tm_overflow_slot));
    put_u64(OVERFLOW + i * 16, addr);
    put_u64(OVERFLOW + i * 16 + 8, 1ull << 33);
    state->l1_addr = L1;
    state->overflow_addr = OVERFLOW;
    state->overflow_slots = slots;
}

/* NT_FILE with one file. */
static size_t make_note(uint8_t *note)
{
    static const char path[NAME_BYTES] = "/memfd:tm-payload-0 (deleted)";
    Elf64_Nhdr head = {5, 40 + sizeof(path), NT_FILE};
    uint64_t words[5] = {1, PAGE, STATE & ~(uint64_t)(PAGE - 1), (STATE | (PAGE - 1)) + 1, 0};
    memcpy(note, &head, sizeof(head));
    memcpy(note + 12, "CORE\0\0\0", 8);
    memcpy(note + 20, words, sizeof(words));
    memcpy(note + 60, path, sizeof(path));
    return 60 + sizeof(path);
}

static int compare_pages(const void *a, const void *b)
{
    const struct page *x = a, *y = b;
    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int write_core(const char *path)
{
    static const uint8_t zeros[PAGE];
    uint8_t note[256] = {0};
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return 1;
    qsort(pages, n_pages, sizeof(*pages), compare_pages);
    Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                         .e_type = ET_CORE,
                         .e_machine = EM_X86_64,
                         .e_version = EV_CURRENT,
                         .e_phoff = sizeof(header),
                         .e_ehsize = sizeof(header),
                         .e_phentsize = sizeof(Elf64_Phdr),
                         .e_phnum = (uint16_t)(n_pages + 1)};
    uint64_t at = sizeof(header) + (n_pages + 1) * sizeof(Elf64_Phdr);
    Elf64_Phdr phdr = {
        .p_type = PT_NOTE, .p_offset = at, .p_filesz = make_note(note), .p_align = 4};
    fwrite(&header, sizeof(header), 1, file);
    fwrite(&phdr, sizeof(phdr), 1, file);
    at += sizeof(note);
    uint64_t zeros_at = at, next = at + PAGE;
    for (unsigned i = 0; i < n_pages; i++) {
        bool empty = memcmp(pages[i].bytes, zeros, PAGE) == 0;
        phdr = (Elf64_Phdr){.p_type = PT_LOAD,
                            .p_flags = PF_R | PF_W,
                            .p_offset = empty ? zeros_at : next,
                            .p_vaddr = pages[i].addr,
                            .p_filesz = PAGE,
                            .p_memsz = PAGE,
                            .p_align = 1};
        next += empty ? 0 : PAGE;
        fwrite(&phdr, sizeof(phdr), 1, file);
    }
    fwrite(note, sizeof(note), 1, file);
    fwrite(zeros, sizeof(zeros), 1, file);
    for (unsigned i = 0; i < n_pages; i++)
        if (memcmp(pages[i].bytes, zeros, PAGE) != 0)
            fwrite(pages[i].bytes, PAGE, 1, file);
    return fclose(file) != 0;
}

int main(int argc, char **argv)
{
    struct tm_state state = {.magic = TM_STATE_MAGIC,
                             .version = TM_STATE_VERSION,
                             .size_bytes = sizeof(state),
                             .tracing = TM_TRACING_ON,
                             .py_version = 0x030b07f0,
                             .granule_shift = 4,
                             .traceback_limit = 2};
    if (argc != 2) {
        fprintf(stderr, "usage: %s FILE\n", argv[0]);
        return 2;
    }
    put_tables(&state);
    put_traces(&state);
    put(STATE, &state, sizeof(state));
    return write_core(argv[1]);
}
