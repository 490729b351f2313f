// SPDX-License-Identifier: MIT
/*
 * The command line of a process from its core. NT_PRPSINFO has 80 bytes of it
 * at most, and what gdb writes there is the program's name alone. On the stack
 * it is whole: argc, argv, NULL, envp, NULL, auxv lie there as the kernel has
 * put them (fs/binfmt_elf.c, create_elf_tables), and the core's NT_AUXV says
 * what to look for.
 */
#include "inspect/core_args.h"

#include <elf.h>
#include <string.h>

enum {
    SEARCH_MAX_BYTES = 1 << 23, /* arguments and environment: a quarter of the stack's limit */
    POINTERS_MAX = 1 << 20,
    ARGUMENT_MAX_BYTES = 1 << 17, /* MAX_ARG_STRLEN of include/uapi/linux/binfmts.h */
};

static uint64_t word_at(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* AT_RANDOM's sixteen bytes lie between auxv and the strings. */
static uint64_t find_entry(const uint8_t *auxv, size_t n_bytes, uint64_t type)
{
    for (size_t at = 0; at + 16 <= n_bytes; at += 16)
        if (word_at(auxv + at) == type)
            return word_at(auxv + at + 8);
    return 0;
}

/* The bytes of [start, end) that end at `end` and can be read, at most SEARCH_MAX_BYTES. */
static GByteArray *read_below(tm_target *target, uint64_t end_addr)
{
    enum { PAGE_BYTES = 4096 };
    g_autofree uint8_t *page = g_malloc(PAGE_BYTES);
    GByteArray *stack = g_byte_array_new();
    uint64_t start_addr = end_addr & ~(uint64_t)(PAGE_BYTES - 1);
    if (start_addr > SEARCH_MAX_BYTES)
        while (end_addr - start_addr < SEARCH_MAX_BYTES &&
               tm_target_view(target, start_addr - PAGE_BYTES, page, PAGE_BYTES) != NULL)
            start_addr -= PAGE_BYTES;
    g_byte_array_set_size(stack, (guint)(end_addr - start_addr));
    if (tm_target_read_some(target, start_addr, stack->data, stack->len) != stack->len)
        g_byte_array_set_size(stack, 0);
    return stack;
}

/* Where in the stack's words auxv begins; 0: nowhere. */
static size_t find_auxv(const GByteArray *stack, const uint8_t *auxv, size_t n_bytes)
{
    size_t shift = stack->len % 8; /* it ends at AT_RANDOM's address; words are aligned */
    for (size_t at = stack->len - shift; at >= 8; at -= 8)
        if (at + n_bytes <= stack->len && memcmp(stack->data + at, auxv, n_bytes) == 0)
            return at;
    return 0;
}

static bool add_argument(tm_target *target, uint64_t addr, GString *text)
{
    g_autofree char *argument = g_malloc(ARGUMENT_MAX_BYTES);
    size_t n_bytes = tm_target_read_some(target, addr, argument, ARGUMENT_MAX_BYTES);
    const char *end = memchr(argument, '\0', n_bytes);
    if (end == NULL)
        return false;
    if (text->len > 0)
        g_string_append_c(text, ' ');
    g_string_append_len(text, argument, end - argument);
    return true;
}

char *tm_core_arguments(tm_target *target, const uint8_t *auxv, size_t n_bytes)
{
    uint64_t random_addr = find_entry(auxv, n_bytes, AT_RANDOM);
    if (random_addr == 0 || random_addr >> 47 != 0 || n_bytes < 16)
        return NULL;
    g_autoptr(GByteArray) stack = read_below(target, random_addr);
    size_t at = stack->len > 0 ? find_auxv(stack, auxv, n_bytes) : 0;
    size_t first = 0, count = 0;
    /* Backwards over envp's NULL, envp, argv's NULL and argv: argc is the word that counts them. */
    for (int nulls = 0; at >= 8 && count < POINTERS_MAX; at -= 8, count++) {
        uint64_t value = word_at(stack->data + at - 8);
        if (value == 0 && ++nulls <= 2)
            count = (size_t)-1;
        else if (nulls == 2 && value == count) {
            first = at;
            break;
        }
    }
    if (first == 0 || count == 0)
        return NULL;
    g_autoptr(GString) text = g_string_new(NULL);
    for (size_t i = 0; i < count; i++)
        if (!add_argument(target, word_at(stack->data + first + i * 8), text))
            return NULL;
    return g_strdup(text->str);
}
