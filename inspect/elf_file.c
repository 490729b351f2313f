// SPDX-License-Identifier: MIT
/* One ELF file, through libelf. Reads lazily; nothing here looks at debug information. */
#include "inspect/elf_file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "inspect/error.h"

static bool scan_headers(tm_elf *self)
{
    GElf_Ehdr header;
    if (elf_kind(self->elf) != ELF_K_ELF || gelf_getehdr(self->elf, &header) == NULL)
        return false;
    self->elf_class = gelf_getclass(self->elf);
    self->machine = header.e_machine;
    self->type = header.e_type;
    self->load_addr = UINT64_MAX;
    size_t count = 0;
    if (elf_getphdrnum(self->elf, &count) != 0)
        return false;
    for (size_t i = 0; i < count; i++) {
        GElf_Phdr segment;
        if (gelf_getphdr(self->elf, (int)i, &segment) == NULL)
            return false;
        if (segment.p_type == PT_LOAD && segment.p_vaddr < self->load_addr)
            self->load_addr = segment.p_vaddr & ~(uint64_t)4095;
        self->has_interp |= segment.p_type == PT_INTERP;
        self->has_dynamic |= segment.p_type == PT_DYNAMIC;
    }
    return self->load_addr != UINT64_MAX;
}

static tm_elf *finish_open(tm_elf *self, GError **error)
{
    if (self->elf != NULL && scan_headers(self))
        return self;
    g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT, "not an ELF file that can run");
    tm_elf_free(self);
    return NULL;
}

tm_elf *tm_elf_open_fd(int fd, GError **error)
{
    elf_version(EV_CURRENT);
    tm_elf *self = g_new0(tm_elf, 1);
    self->fd = fd;
    self->elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
    return finish_open(self, error);
}

tm_elf *tm_elf_open_image(GBytes *image, GError **error)
{
    elf_version(EV_CURRENT);
    tm_elf *self = g_new0(tm_elf, 1);
    self->fd = -1;
    self->image = g_bytes_ref(image);
    gsize n_bytes = 0;
    const void *data = g_bytes_get_data(image, &n_bytes);
    self->elf = elf_memory((char *)(uintptr_t)data, n_bytes);
    return finish_open(self, error);
}

void tm_elf_free(tm_elf *elf)
{
    if (elf == NULL)
        return;
    if (elf->elf != NULL)
        elf_end(elf->elf);
    if (elf->fd >= 0)
        close(elf->fd);
    if (elf->image != NULL)
        g_bytes_unref(elf->image);
    g_free(elf);
}

static Elf_Scn *find_section_by_type(const tm_elf *elf, uint32_t type, GElf_Shdr *ret_header)
{
    Elf_Scn *section = NULL;
    while ((section = elf_nextscn(elf->elf, section)) != NULL) {
        if (gelf_getshdr(section, ret_header) != NULL && ret_header->sh_type == type)
            return section;
    }
    return NULL;
}

typedef bool (*symbol_visitor)(const struct tm_symbol *symbol, void *arg);

/* Calls visit for each defined function or object of the table until it says true. */
static bool visit_symbols(const tm_elf *elf, uint32_t type, symbol_visitor visit, void *arg)
{
    GElf_Shdr header;
    Elf_Scn *section = find_section_by_type(elf, type, &header);
    Elf_Data *data = section != NULL ? elf_getdata(section, NULL) : NULL;
    if (data == NULL || header.sh_entsize == 0)
        return false;
    size_t count = data->d_size / header.sh_entsize;
    for (size_t i = 1; i < count; i++) {
        GElf_Sym raw;
        if (gelf_getsym(data, (int)i, &raw) == NULL)
            break;
        int kind = GELF_ST_TYPE(raw.st_info);
        if (raw.st_shndx == SHN_UNDEF ||
            (kind != STT_FUNC && kind != STT_OBJECT && kind != STT_NOTYPE && kind != STT_GNU_IFUNC))
            continue;
        const char *name = elf_strptr(elf->elf, header.sh_link, raw.st_name);
        if (name == NULL || *name == '\0')
            continue;
        struct tm_symbol symbol = {name, raw.st_value, raw.st_size, kind == STT_FUNC};
        if (visit(&symbol, arg))
            return true;
    }
    return false;
}

struct by_name {
    const char *name;
    struct tm_symbol *ret;
};

static bool match_name(const struct tm_symbol *symbol, void *arg)
{
    struct by_name *wanted = arg;
    if (strcmp(symbol->name, wanted->name) != 0)
        return false;
    *wanted->ret = *symbol;
    return true;
}

bool tm_elf_find_export(const tm_elf *elf, const char *name, struct tm_symbol *ret)
{
    return visit_symbols(elf, SHT_DYNSYM, match_name, &(struct by_name){name, ret});
}

bool tm_elf_find_symbol(const tm_elf *elf, const char *name, struct tm_symbol *ret)
{
    return tm_elf_find_export(elf, name, ret) ||
           visit_symbols(elf, SHT_SYMTAB, match_name, &(struct by_name){name, ret});
}

static bool collect_function(const struct tm_symbol *symbol, void *arg)
{
    if (symbol->is_func)
        g_array_append_vals(arg, symbol, 1);
    return false;
}

static int compare_symbols(const void *left, const void *right)
{
    const struct tm_symbol *a = left, *b = right;
    if (a->value != b->value)
        return a->value < b->value ? -1 : 1;
    return a->size_bytes < b->size_bytes ? -1 : a->size_bytes > b->size_bytes;
}

tm_symbols *tm_elf_functions(const tm_elf *elf)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(struct tm_symbol));
    visit_symbols(elf, SHT_DYNSYM, collect_function, found);
    visit_symbols(elf, SHT_SYMTAB, collect_function, found);
    if (found->len > 0)
        qsort(found->data, found->len, sizeof(struct tm_symbol), compare_symbols);
    tm_symbols *self = g_new0(tm_symbols, 1);
    self->count = found->len;
    self->items = (struct tm_symbol *)(void *)g_array_free(found, FALSE);
    return self;
}

void tm_symbols_free(tm_symbols *symbols)
{
    if (symbols == NULL)
        return;
    g_free(symbols->items);
    g_free(symbols);
}

const struct tm_symbol *tm_symbols_find(const tm_symbols *symbols, uint64_t value)
{
    size_t low = 0, high = symbols->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (symbols->items[middle].value <= value)
            low = middle + 1;
        else
            high = middle;
    }
    /* Aliases share a value and sort by size: the last of them is the widest. Functions do not
     * nest, so a short walk back over symbols without a size is enough. */
    for (size_t i = low, tries = 0; i > 0 && tries < 8; i--, tries++) {
        const struct tm_symbol *symbol = &symbols->items[i - 1];
        uint64_t extent = symbol->size_bytes > 0 ? symbol->size_bytes : 1;
        if (value - symbol->value < extent)
            return symbol;
    }
    return NULL;
}

char *tm_elf_build_id(const tm_elf *elf)
{
    Elf_Scn *section = NULL;
    while ((section = elf_nextscn(elf->elf, section)) != NULL) {
        GElf_Shdr header;
        if (gelf_getshdr(section, &header) == NULL || header.sh_type != SHT_NOTE)
            continue;
        Elf_Data *data = elf_getdata(section, NULL);
        size_t at = 0, name_at, desc_at;
        GElf_Nhdr note;
        while (data != NULL && (at = gelf_getnote(data, at, &note, &name_at, &desc_at)) > 0) {
            const char *name = (const char *)data->d_buf + name_at;
            if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 || memcmp(name, "GNU", 4) != 0)
                continue;
            GString *text = g_string_new(NULL);
            for (size_t i = 0; i < note.n_descsz; i++)
                g_string_append_printf(text, "%02x", ((const uint8_t *)data->d_buf)[desc_at + i]);
            return g_string_free(text, FALSE);
        }
    }
    return NULL;
}

Elf_Data *tm_elf_section(const tm_elf *elf, const char *name, GElf_Shdr *ret_header)
{
    size_t names = 0;
    if (elf_getshdrstrndx(elf->elf, &names) != 0)
        return NULL;
    Elf_Scn *section = NULL;
    while ((section = elf_nextscn(elf->elf, section)) != NULL) {
        if (gelf_getshdr(section, ret_header) == NULL)
            continue;
        const char *found = elf_strptr(elf->elf, names, ret_header->sh_name);
        if (found != NULL && strcmp(found, name) == 0)
            return ret_header->sh_type == SHT_NOBITS ? NULL : elf_getdata(section, NULL);
    }
    return NULL;
}

bool tm_elf_find_code(const tm_elf *elf, const void *pattern, size_t n_bytes, uint64_t *ret_value)
{
    size_t count = 0, file_bytes = 0;
    const char *file = elf_rawfile(elf->elf, &file_bytes);
    if (file == NULL || elf_getphdrnum(elf->elf, &count) != 0)
        return false;
    for (size_t i = 0; i < count; i++) {
        GElf_Phdr segment;
        if (gelf_getphdr(elf->elf, (int)i, &segment) == NULL || segment.p_type != PT_LOAD ||
            (segment.p_flags & PF_X) == 0 || segment.p_offset > file_bytes ||
            segment.p_filesz > file_bytes - segment.p_offset)
            continue;
        const char *start = file + segment.p_offset;
        const char *found = memmem(start, segment.p_filesz, pattern, n_bytes);
        if (found != NULL) {
            *ret_value = segment.p_vaddr + (uint64_t)(found - start);
            return true;
        }
    }
    return false;
}
