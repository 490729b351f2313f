// SPDX-License-Identifier: MIT
/* Debug information of one file, through libdwfl (which finds separate files) and libdw. */
#include "inspect/debug_info.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>
#include <string.h>
#include <unistd.h>

#include "inspect/error.h"

struct tm_debug_info {
    Dwfl *dwfl;
    Dwarf *dwarf;          /* owned by dwfl */
    GHashTable *types;     /* name -> Dwarf_Die *: structs and typedefs that are complete */
    GHashTable *variables; /* name -> Dwarf_Die * */
};

enum { ALIASES_MAX = 32 }; /* typedefs of typedefs; a circle is damage */

static Dwfl *open_dwfl(const tm_elf *elf, const char *path)
{
    static const Dwfl_Callbacks callbacks = {
        .find_elf = dwfl_build_id_find_elf,
        .find_debuginfo = dwfl_standard_find_debuginfo,
        .section_address = dwfl_offline_section_address,
    };
    Dwfl *dwfl = dwfl_begin(&callbacks);
    int fd = dwfl != NULL ? dup(elf->fd) : -1;
    if (fd < 0)
        goto fail;
    dwfl_report_begin(dwfl);
    if (dwfl_report_offline(dwfl, path, path, fd) == NULL) {
        close(fd);
        goto fail;
    }
    dwfl_report_end(dwfl, NULL, NULL);
    return dwfl;
fail:
    if (dwfl != NULL)
        dwfl_end(dwfl);
    return NULL;
}

static int take_module(Dwfl_Module *module, void **userdata, const char *name, Dwarf_Addr start,
                       void *arg)
{
    (void)userdata;
    (void)name;
    (void)start;
    *(Dwfl_Module **)arg = module;
    return DWARF_CB_ABORT;
}

static void keep(GHashTable *table, const char *name, const Dwarf_Die *die)
{
    if (!g_hash_table_contains(table, name))
        g_hash_table_insert(table, (char *)(uintptr_t)name, g_memdup2(die, sizeof(*die)));
}

static void index_unit(tm_debug_info *info, Dwarf_Die *unit)
{
    Dwarf_Die die;
    if (dwarf_child(unit, &die) != 0)
        return;
    do {
        int tag = dwarf_tag(&die);
        const char *name;
        Dwarf_Attribute attribute;
        if ((tag != DW_TAG_structure_type && tag != DW_TAG_typedef && tag != DW_TAG_variable) ||
            (name = dwarf_diename(&die)) == NULL)
            continue;
        if (tag == DW_TAG_variable) {
            if (dwarf_attr(&die, DW_AT_location, &attribute) != NULL)
                keep(info->variables, name, &die);
        } else if (dwarf_attr(&die, DW_AT_declaration, &attribute) == NULL) {
            keep(info->types, name, &die);
        }
    } while (dwarf_siblingof(&die, &die) == 0);
}

static void index_file(tm_debug_info *info, Dwarf *dwarf)
{
    Dwarf_CU *unit = NULL;
    Dwarf_Die die;
    while (dwarf_get_units(dwarf, unit, &unit, NULL, NULL, &die, NULL) == 0)
        index_unit(info, &die);
}

static char *package_hint(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    unsigned major, minor;
    if ((g_str_has_prefix(path, "/usr/bin/") || g_str_has_prefix(path, "/usr/lib/")) &&
        (sscanf(name, "python%u.%u", &major, &minor) == 2 ||
         sscanf(name, "libpython%u.%u", &major, &minor) == 2))
        return g_strdup_printf("install python%u.%u-dbg (Debian, Ubuntu: or the -dbgsym package; "
                               "Fedora: dnf debuginfo-install python%u) or set DEBUGINFOD_URLS",
                               major, minor, major);
    return g_strdup("install its -dbg, -dbgsym or -debuginfo package, or set DEBUGINFOD_URLS");
}

tm_debug_info *tm_debug_info_open(const tm_elf *elf, const char *path, GError **error)
{
    Dwfl_Module *module = NULL;
    Dwarf_Addr bias;
    Dwfl *dwfl = elf->fd >= 0 ? open_dwfl(elf, path) : NULL;
    if (dwfl != NULL)
        dwfl_getmodules(dwfl, take_module, &module, 0);
    Dwarf *dwarf = module != NULL ? dwfl_module_getdwarf(module, &bias) : NULL;
    if (dwarf == NULL) {
        g_autofree char *hint = package_hint(path);
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                    "%s has no debug information: %s", path, hint);
        if (dwfl != NULL)
            dwfl_end(dwfl);
        return NULL;
    }
    tm_debug_info *self = g_new0(tm_debug_info, 1);
    self->dwfl = dwfl;
    self->dwarf = dwarf;
    self->types = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free);
    self->variables = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free);
    index_file(self, dwarf);
    Dwarf *shared = dwarf_getalt(dwarf); /* what dwz has moved out of several files */
    if (shared != NULL)
        index_file(self, shared);
    return self;
}

void tm_debug_info_free(tm_debug_info *info)
{
    if (info == NULL)
        return;
    g_hash_table_unref(info->types);
    g_hash_table_unref(info->variables);
    dwfl_end(info->dwfl);
    g_free(info);
}

bool tm_debug_info_variable(tm_debug_info *info, const char *name, uint64_t *ret_value)
{
    Dwarf_Die *die = g_hash_table_lookup(info->variables, name);
    Dwarf_Attribute attribute;
    Dwarf_Op *ops;
    size_t count;
    if (die == NULL || dwarf_attr(die, DW_AT_location, &attribute) == NULL ||
        dwarf_getlocation(&attribute, &ops, &count) != 0 || count != 1 || ops[0].atom != DW_OP_addr)
        return false;
    *ret_value = ops[0].number;
    return true;
}

static bool type_of(Dwarf_Die *die, Dwarf_Die *ret)
{
    Dwarf_Attribute attribute;
    return dwarf_attr_integrate(die, DW_AT_type, &attribute) != NULL &&
           dwarf_formref_die(&attribute, ret) != NULL;
}

/* Typedefs and qualifiers off. */
static bool strip(tm_debug_info *info, Dwarf_Die *die)
{
    for (int i = 0; i < ALIASES_MAX; i++) {
        int tag = dwarf_tag(die);
        if (tag == DW_TAG_structure_type || tag == DW_TAG_union_type) {
            Dwarf_Attribute attribute;
            const char *name = dwarf_diename(die);
            /* A unit may know the struct by name only; another one has it whole. */
            if (dwarf_attr(die, DW_AT_declaration, &attribute) == NULL)
                return true;
            Dwarf_Die *whole = name != NULL ? g_hash_table_lookup(info->types, name) : NULL;
            if (whole == NULL || dwarf_tag(whole) != tag)
                return false;
            *die = *whole;
            return true;
        }
        if (tag != DW_TAG_typedef && tag != DW_TAG_const_type && tag != DW_TAG_volatile_type &&
            tag != DW_TAG_atomic_type)
            return true;
        Dwarf_Die next;
        if (!type_of(die, &next))
            return false;
        *die = next;
    }
    return false;
}

static bool find_type(tm_debug_info *info, const char *name, Dwarf_Die *ret)
{
    Dwarf_Die *found = g_hash_table_lookup(info->types, name);
    if (found == NULL)
        return false;
    *ret = *found;
    return strip(info, ret);
}

static bool number_of(Dwarf_Die *die, unsigned name, uint64_t *ret)
{
    Dwarf_Attribute attribute;
    Dwarf_Word word;
    if (dwarf_attr(die, name, &attribute) == NULL || dwarf_formudata(&attribute, &word) != 0)
        return false;
    *ret = word;
    return true;
}

static bool find_member(Dwarf_Die *outer, const char *name, size_t name_bytes, Dwarf_Die *ret)
{
    if (dwarf_child(outer, ret) != 0)
        return false;
    do {
        const char *found = dwarf_diename(ret);
        if (dwarf_tag(ret) == DW_TAG_member && found != NULL && strlen(found) == name_bytes &&
            memcmp(found, name, name_bytes) == 0)
            return true;
    } while (dwarf_siblingof(ret, ret) == 0);
    return false;
}

/* DWARF 5 says data_bit_offset from the struct's start; before that, bit_offset counts from the
 * highest bit of the integer at data_member_location. Little-endian machines only. */
static void read_bits(Dwarf_Die *member, struct tm_field *field)
{
    uint64_t n_bits, at, storage_bytes;
    if (!number_of(member, DW_AT_bit_size, &n_bits) || n_bits == 0 || n_bits > 64)
        return;
    field->n_bits = (unsigned)n_bits;
    if (number_of(member, DW_AT_data_bit_offset, &at)) {
        field->offset_bytes += at / 32 * 4;
        field->bit_offset = at % 32;
        field->size_bytes = 4;
    } else if (number_of(member, DW_AT_bit_offset, &at)) {
        storage_bytes = field->size_bytes;
        number_of(member, DW_AT_byte_size, &storage_bytes);
        field->size_bytes = storage_bytes;
        field->bit_offset = (unsigned)(storage_bytes * 8 - at - n_bits);
    }
}

bool tm_debug_info_field(tm_debug_info *info, const char *type, const char *path,
                         struct tm_field *ret)
{
    Dwarf_Die outer, member;
    struct tm_field field = {0};
    if (!find_type(info, type, &outer))
        return false;
    for (const char *at = path; *at != '\0';) {
        size_t n_bytes = strcspn(at, ".");
        uint64_t offset = 0;
        Dwarf_Word size;
        if (!find_member(&outer, at, n_bytes, &member))
            return false;
        number_of(&member, DW_AT_data_member_location, &offset);
        field.offset_bytes += offset;
        if (!type_of(&member, &outer) || !strip(info, &outer))
            return false;
        field.size_bytes = dwarf_aggregate_size(&outer, &size) == 0 ? size : 0;
        read_bits(&member, &field);
        at += n_bytes;
        if (*at == '.')
            at++;
    }
    *ret = field;
    return true;
}

bool tm_debug_info_size(tm_debug_info *info, const char *type, uint64_t *ret_bytes)
{
    Dwarf_Die die;
    Dwarf_Word size;
    if (!find_type(info, type, &die) || dwarf_aggregate_size(&die, &size) != 0)
        return false;
    *ret_bytes = size;
    return true;
}
