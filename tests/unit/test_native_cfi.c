// SPDX-License-Identifier: MIT
/* The compiled unwind tables against libdw's reading of the same files, at every row. */
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <fcntl.h>
#include <glib.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "payload/native/cfi.h"

enum { RBP = 6, RSP = 7, RA = 16 };

struct visit {
    guint modules, vdsos, rows, known, unknown;
    Dwarf_CFI *cfi;
    guint64 bias, start;
    struct tm_cfi_row last;
    gboolean has_last;
};

static gboolean is_at_cfa(Dwarf_Frame *frame, int reg, Dwarf_Sword *ret_offset)
{
    Dwarf_Op memory[3], *ops;
    size_t n;

    if (dwarf_frame_register(frame, reg, memory, &ops, &n) != 0 || n == 0)
        return FALSE;
    *ret_offset = 0;
    if (ops[0].atom != DW_OP_call_frame_cfa)
        return FALSE;
    if (n == 2 && ops[1].atom == DW_OP_plus_uconst)
        *ret_offset = (Dwarf_Sword)ops[1].number;
    return n == 1 || (n == 2 && ops[1].atom == DW_OP_plus_uconst);
}

/* What libdw says, for the rules that the tables keep. */
static void check_rule(struct visit *visit, guint64 pc, guint32 rule)
{
    Dwarf_Frame *frame = NULL;
    Dwarf_Op *ops;
    Dwarf_Sword offset;
    size_t n;
    guint32 kind = tm_cfi_kind(rule);

    if (kind == TM_CFI_UNKNOWN) {
        visit->unknown++;
        return;
    }
    visit->known++;
    g_assert_cmpint(dwarf_cfi_addrframe(visit->cfi, pc, &frame), ==, 0);
    g_assert_cmpint(dwarf_frame_cfa(frame, &ops, &n), ==, 0);
    if (kind == TM_CFI_END) {
        Dwarf_Op memory[3];
        g_assert_cmpint(dwarf_frame_register(frame, RA, memory, &ops, &n), ==, 0);
        g_assert_cmpuint(n, ==, 0);
        g_assert_true(ops == memory);
    } else if (kind == TM_CFI_RBP_DEREF) {
        g_assert_cmpuint(n, ==, 2);
        g_assert_cmpint(ops[0].atom, ==, DW_OP_breg0 + RBP);
        g_assert_cmpint((gint64)ops[0].number, ==, tm_cfi_offset_bytes(rule));
        g_assert_cmpint(ops[1].atom, ==, DW_OP_deref);
    } else {
        g_assert_cmpuint(n, ==, 1);
        g_assert_cmpint(ops[0].atom, ==, DW_OP_bregx);
        g_assert_cmpuint(ops[0].number, ==, kind == TM_CFI_RSP ? RSP : RBP);
        g_assert_cmpint((gint64)ops[0].number2, ==, tm_cfi_offset_bytes(rule));
        g_assert_true(is_at_cfa(frame, RA, &offset));
        g_assert_cmpint(offset, ==, -8);
        g_assert_cmpint(is_at_cfa(frame, RBP, &offset), ==, tm_cfi_saved_bytes(rule) != 0);
        if (tm_cfi_saved_bytes(rule) != 0)
            g_assert_cmpint(offset, ==, tm_cfi_saved_bytes(rule));
    }
    free(frame);
}

static bool take_row(void *data, struct tm_cfi_row row)
{
    struct visit *visit = data;

    g_assert_true(!visit->has_last || row.pc_offset >= visit->last.pc_offset);
    /* A row at the same place replaces the one before it. */
    if (visit->has_last && row.pc_offset != visit->last.pc_offset)
        check_rule(visit, visit->start + visit->last.pc_offset - visit->bias, visit->last.rule);
    visit->last = row;
    visit->has_last = TRUE;
    visit->rows++;
    return true;
}

/* Of a module without a file, the vdso: a copy of its memory, owned by the caller. */
static char *copy_vdso(const struct dl_phdr_info *info, size_t *ret_bytes)
{
    const char *start = (const char *)getauxval(AT_SYSINFO_EHDR);

    if (start == NULL || info->dlpi_addr != (ElfW(Addr))start)
        return NULL;
    const ElfW(Ehdr) *header = (const void *)start;
    *ret_bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
    return g_memdup2(start, *ret_bytes);
}

static int visit_module(struct dl_phdr_info *info, size_t size, void *data)
{
    struct visit *visit = data;
    struct tm_cfi_module module = {.start = G_MAXUINT64};
    const char *path = info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe";
    int fd = open(path, O_RDONLY);
    size_t n_bytes;
    g_autofree char *vdso = fd < 0 ? copy_vdso(info, &n_bytes) : NULL;
    Elf *elf = NULL;

    (void)size;
    if (fd >= 0)
        elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
    else if (vdso)
        elf = elf_memory(vdso, n_bytes);
    if (elf == NULL || (visit->cfi = dwarf_getcfi_elf(elf)) == NULL)
        goto out;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *phdr = &info->dlpi_phdr[i];
        guint64 start = info->dlpi_addr + phdr->p_vaddr;
        if (phdr->p_type == PT_GNU_EH_FRAME)
            module.hdr_addr = start;
        if (phdr->p_type == PT_LOAD) {
            module.start = MIN(module.start, start);
            module.end = MAX(module.end, start + phdr->p_memsz);
        }
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *phdr = &info->dlpi_phdr[i];
        guint64 start = info->dlpi_addr + phdr->p_vaddr;
        if (phdr->p_type == PT_LOAD && module.hdr_addr - start < phdr->p_filesz) {
            module.read_start = start;
            module.read_end = start + phdr->p_filesz;
        }
    }
    visit->bias = info->dlpi_addr;
    visit->start = module.start;
    visit->has_last = FALSE;
    if (module.hdr_addr) {
        g_test_message("%s", path);
        g_assert_true(tm_cfi_compile(&module, take_row, visit));
        visit->modules++;
        visit->vdsos += vdso != NULL;
    }
    dwarf_cfi_end(visit->cfi);
out:
    elf_end(elf);
    if (fd >= 0)
        close(fd);
    return 0;
}

static void test_against_libdw(void)
{
    struct visit visit = {0};

    elf_version(EV_CURRENT);
    dl_iterate_phdr(visit_module, &visit);
    g_test_message("%u modules, %u rows, %u rules, %u unknown", visit.modules, visit.rows,
                   visit.known, visit.unknown);
    g_assert_cmpuint(visit.modules, >, 2);
    g_assert_cmpuint(visit.vdsos, ==, getauxval(AT_SYSINFO_EHDR) != 0);
    g_assert_cmpuint(visit.known, >, 10000);
    g_assert_cmpuint(visit.unknown, <, visit.known / 20);
}

/* Whatever the tables say, nothing outside them is read and the rows stay in order. */
static bool count_row(void *data, struct tm_cfi_row row)
{
    (void)row;
    return ++*(guint *)data < 100000;
}

static void test_damaged(void)
{
    enum { BYTES = 4096 };
    guint8 *memory = g_malloc(BYTES);
    guint rows = 0;

    for (guint round = 0; round < 20000; round++) {
        struct tm_cfi_module module = {.start = (guint64)memory,
                                       .end = (guint64)memory + BYTES,
                                       .hdr_addr = (guint64)memory,
                                       .read_start = (guint64)memory,
                                       .read_end = (guint64)memory + BYTES};
        static const guint8 head[] = {1, 0x1b, 0x03, 0x3b};
        for (guint i = 0; i < BYTES; i++)
            memory[i] = (guint8)g_test_rand_int_range(0, round % 2 ? 256 : 24);
        memcpy(memory, head, sizeof head);
        tm_cfi_compile(&module, count_row, &rows);
    }
    g_free(memory);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/native/cfi/against-libdw", test_against_libdw);
    g_test_add_func("/native/cfi/damaged", test_damaged);
    return g_test_run();
}
