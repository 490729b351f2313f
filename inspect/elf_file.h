// SPDX-License-Identifier: MIT
/* One ELF file: its symbols, its build-id, what kind of thing it is. */
#pragma once

#include <gelf.h>
#include <glib.h>
#include <libelf.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct tm_elf {
    int fd; /* owned; -1 for an image in memory */
    Elf *elf;
    GBytes *image; /* an image in memory (the vDSO), or NULL */
    int elf_class; /* ELFCLASS32, ELFCLASS64 */
    uint16_t machine;
    uint16_t type;   /* ET_EXEC, ET_DYN */
    bool has_interp; /* asks for a dynamic linker */
    bool has_dynamic;
    uint64_t load_addr; /* lowest p_vaddr of PT_LOAD, rounded down to a page */
} tm_elf;

struct tm_symbol {
    const char *name; /* borrowed from the file */
    uint64_t value;   /* as in the file: add the module's bias */
    uint64_t size_bytes;
    bool is_func;
};

/* A table by address, for "which function is this". Names are borrowed from the file. */
typedef struct tm_symbols {
    struct tm_symbol *items; /* functions only, by ascending value */
    size_t count;
} tm_symbols;

/* Takes the descriptor over, also when it fails. Free with tm_elf_free. */
tm_elf *tm_elf_open_fd(int fd, GError **error);
/* Reads from the bytes; takes a reference. */
tm_elf *tm_elf_open_image(GBytes *image, GError **error);
void tm_elf_free(tm_elf *elf);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_elf, tm_elf_free)

/* Looks a defined symbol up in .dynsym, then in .symtab. False where neither has it. */
bool tm_elf_find_symbol(const tm_elf *elf, const char *name, struct tm_symbol *ret);
/* In .dynsym only: what other modules can see. */
bool tm_elf_find_export(const tm_elf *elf, const char *name, struct tm_symbol *ret);
/* The functions of .dynsym and .symtab, sorted. Free with tm_symbols_free. */
tm_symbols *tm_elf_functions(const tm_elf *elf);
void tm_symbols_free(tm_symbols *symbols);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_symbols, tm_symbols_free)
/* The function whose extent holds value (a symbol without a size: only its first byte), or NULL. */
const struct tm_symbol *tm_symbols_find(const tm_symbols *symbols, uint64_t value);

/* Lower-case hexadecimal, to be freed; NULL where the file has none. */
char *tm_elf_build_id(const tm_elf *elf);
/* A section's contents as they lie in the file; NULL where there is none. Borrowed. */
Elf_Data *tm_elf_section(const tm_elf *elf, const char *name, GElf_Shdr *ret_header);
/* Where n_bytes pattern first occurs in an executable segment, as an address of the file. */
bool tm_elf_find_code(const tm_elf *elf, const void *pattern, size_t n_bytes, uint64_t *ret_value);
