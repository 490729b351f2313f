// SPDX-License-Identifier: MIT
/* An ELF file as it lies in memory. Follows the System V gABI and the GNU hash table's layout. */
#include "inspect/mapped_elf.h"

#include <elf.h>
#include <string.h>

enum {
    PHDRS_MAX = 64,
    DYNAMIC_MAX = 256,
    NOTE_MAX_BYTES = 4096,
    CHAIN_MAX = 1 << 20, /* symbols; a chain that does not end is damaged */
};

struct image {
    tm_target *target;
    uint64_t bias;
    unsigned n_phdrs;
    Elf64_Phdr phdrs[PHDRS_MAX];
};

static bool read_at(const struct image *image, uint64_t addr, void *buffer, size_t n_bytes)
{
    return tm_target_read_some(image->target, addr, buffer, n_bytes) == n_bytes;
}

static bool image_open(struct image *ret, tm_target *target, uint64_t start_addr)
{
    Elf64_Ehdr header;
    ret->target = target;
    ret->bias = 0;
    if (!read_at(ret, start_addr, &header, sizeof(header)) ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > PHDRS_MAX ||
        header.e_phoff >> 32 != 0)
        return false;
    ret->n_phdrs = header.e_phnum;
    if (!read_at(ret, start_addr + header.e_phoff, ret->phdrs, header.e_phnum * sizeof(Elf64_Phdr)))
        return false;
    for (unsigned i = 0; i < ret->n_phdrs; i++) {
        if (ret->phdrs[i].p_type == PT_LOAD && ret->phdrs[i].p_offset == 0) {
            ret->bias = start_addr - ret->phdrs[i].p_vaddr;
            return true;
        }
    }
    return false;
}

struct dynamic {
    uint64_t symtab_addr, strtab_addr, gnu_hash_addr;
    uint64_t strtab_bytes;
};

/* glibc adds the bias to these addresses in memory, musl does not. */
static uint64_t relocated(const struct image *image, uint64_t value)
{
    return value < image->bias ? value + image->bias : value;
}

static bool read_dynamic(const struct image *image, struct dynamic *ret)
{
    *ret = (struct dynamic){0};
    for (unsigned i = 0; i < image->n_phdrs; i++) {
        const Elf64_Phdr *phdr = &image->phdrs[i];
        Elf64_Dyn entries[DYNAMIC_MAX];
        if (phdr->p_type != PT_DYNAMIC)
            continue;
        size_t count = MIN(phdr->p_memsz / sizeof(Elf64_Dyn), DYNAMIC_MAX);
        if (!read_at(image, image->bias + phdr->p_vaddr, entries, count * sizeof(*entries)))
            return false;
        for (size_t k = 0; k < count && entries[k].d_tag != DT_NULL; k++) {
            uint64_t value = entries[k].d_un.d_ptr;
            if (entries[k].d_tag == DT_SYMTAB)
                ret->symtab_addr = relocated(image, value);
            else if (entries[k].d_tag == DT_STRTAB)
                ret->strtab_addr = relocated(image, value);
            else if (entries[k].d_tag == DT_GNU_HASH)
                ret->gnu_hash_addr = relocated(image, value);
            else if (entries[k].d_tag == DT_STRSZ)
                ret->strtab_bytes = value;
        }
    }
    return ret->symtab_addr != 0 && ret->strtab_addr != 0 && ret->gnu_hash_addr != 0;
}

static uint32_t gnu_hash(const char *name)
{
    uint32_t hash = 5381;
    for (const char *at = name; *at != '\0'; at++)
        hash = hash * 33 + (uint8_t)*at;
    return hash;
}

static bool symbol_is(const struct image *image, const struct dynamic *dynamic, uint32_t index,
                      const char *name, uint64_t *ret_addr)
{
    Elf64_Sym symbol;
    char found[128];
    size_t n_bytes = strlen(name) + 1;
    if (n_bytes > sizeof(found) ||
        !read_at(image, dynamic->symtab_addr + (uint64_t)index * sizeof(symbol), &symbol,
                 sizeof(symbol)) ||
        symbol.st_shndx == SHN_UNDEF || symbol.st_name > dynamic->strtab_bytes ||
        !read_at(image, dynamic->strtab_addr + symbol.st_name, found, n_bytes) ||
        memcmp(found, name, n_bytes) != 0)
        return false;
    *ret_addr = image->bias + symbol.st_value;
    return true;
}

/* The GNU hash table: four words, the bloom filter, buckets, and a chain whose last hash has its
 * lowest bit set. */
bool tm_mapped_elf_find_export(tm_target *target, uint64_t start_addr, const char *name,
                               uint64_t *ret_addr)
{
    struct image image;
    struct dynamic dynamic;
    uint32_t head[4], index, wanted = gnu_hash(name);
    if (!image_open(&image, target, start_addr) || !read_dynamic(&image, &dynamic) ||
        !read_at(&image, dynamic.gnu_hash_addr, head, sizeof(head)) || head[0] == 0)
        return false;
    uint32_t n_buckets = head[0], first = head[1];
    uint64_t buckets_addr = dynamic.gnu_hash_addr + sizeof(head) + (uint64_t)head[2] * 8;
    uint64_t chain_addr = buckets_addr + (uint64_t)n_buckets * 4;
    if (!read_at(&image, buckets_addr + (uint64_t)(wanted % n_buckets) * 4, &index,
                 sizeof(index)) ||
        index < first)
        return false;
    for (uint32_t steps = 0; steps < CHAIN_MAX; steps++, index++) {
        uint32_t hash;
        if (!read_at(&image, chain_addr + (uint64_t)(index - first) * 4, &hash, sizeof(hash)))
            return false;
        if ((hash | 1) == (wanted | 1) && symbol_is(&image, &dynamic, index, name, ret_addr))
            return true;
        if (hash & 1)
            return false;
    }
    return false;
}

static char *build_id_in(const uint8_t *notes, size_t n_bytes)
{
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= n_bytes;) {
        Elf64_Nhdr note;
        memcpy(&note, notes + at, sizeof(note));
        size_t name_at = at + sizeof(note);
        size_t desc_at = name_at + (((size_t)note.n_namesz + 3) & ~(size_t)3);
        size_t end = desc_at + note.n_descsz;
        if (end > n_bytes || end < at)
            return NULL;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            memcmp(notes + name_at, "GNU", 4) == 0) {
            GString *text = g_string_new(NULL);
            for (size_t i = 0; i < note.n_descsz; i++)
                g_string_append_printf(text, "%02x", notes[desc_at + i]);
            return g_string_free(text, FALSE);
        }
        at = (end + 3) & ~(size_t)3;
    }
    return NULL;
}

char *tm_mapped_elf_build_id(tm_target *target, uint64_t start_addr)
{
    struct image image;
    char *found = NULL;
    if (!image_open(&image, target, start_addr))
        return NULL;
    for (unsigned i = 0; i < image.n_phdrs && found == NULL; i++) {
        uint8_t notes[NOTE_MAX_BYTES];
        const Elf64_Phdr *phdr = &image.phdrs[i];
        if (phdr->p_type == PT_NOTE && phdr->p_memsz <= sizeof(notes) &&
            read_at(&image, image.bias + phdr->p_vaddr, notes, phdr->p_memsz))
            found = build_id_in(notes, phdr->p_memsz);
    }
    return found;
}
