// SPDX-License-Identifier: MIT
/*
 * Struct layouts of an interpreter from its own debug information. Everything here that knows
 * CPython is the two tables of names; the names are those of Include/cpython and
 * Include/internal of the versions named beside them.
 */
#include "inspect/layout_dwarf.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "inspect/error.h"

enum wanted_struct {
    STRUCT_TSTATE,
    STRUCT_CFRAME,
    STRUCT_IFRAME,
    STRUCT_FRAME,
    STRUCT_CODE,
    STRUCT_VAR_OBJECT,
    STRUCT_ASCII,
    STRUCT_COMPACT,
    STRUCT_OBJECT,
    STRUCTS,
};

static const struct {
    const char *names[3];  /* tags and typedefs, as they were called over the versions */
    uint32_t since, until; /* needed in these versions, inclusive */
} structs[STRUCTS] = {
    [STRUCT_TSTATE] = {{"_ts"}, 0x0300, 0xffff},
    [STRUCT_CFRAME] = {{"_PyCFrame", "_cframe"}, 0x030b, 0x030c},
    [STRUCT_IFRAME] = {{"_PyInterpreterFrame"}, 0x030b, 0xffff},
    [STRUCT_FRAME] = {{"_frame"}, 0x0300, 0x030a},
    [STRUCT_CODE] = {{"PyCodeObject"}, 0x0300, 0xffff},
    [STRUCT_VAR_OBJECT] = {{"PyVarObject"}, 0x030b, 0xffff},
    [STRUCT_ASCII] = {{"PyASCIIObject"}, 0x0300, 0xffff},
    [STRUCT_COMPACT] = {{"PyCompactUnicodeObject"}, 0x0300, 0xffff},
    [STRUCT_OBJECT] = {{"_object"}, 0x0300, 0xffff},
};

#define FIELD(name) offsetof(struct tm_layout, name)
static const struct {
    size_t field; /* of struct tm_layout */
    enum wanted_struct in;
    const char *names[2];
    uint32_t since, until;
} fields[] = {
    {FIELD(tstate_frame), STRUCT_TSTATE, {"frame"}, 0x0300, 0x030a},
    {FIELD(tstate_cframe), STRUCT_TSTATE, {"cframe"}, 0x030b, 0x030c},
    {FIELD(tstate_current_frame), STRUCT_TSTATE, {"current_frame"}, 0x030d, 0xffff},
    {FIELD(tstate_interp), STRUCT_TSTATE, {"interp"}, 0x0300, 0xffff},
    {FIELD(tstate_thread_id), STRUCT_TSTATE, {"thread_id"}, 0x0300, 0xffff},
    {FIELD(tstate_next), STRUCT_TSTATE, {"next"}, 0x0300, 0xffff},
    {FIELD(cframe_current_frame), STRUCT_CFRAME, {"current_frame"}, 0x030b, 0x030c},
    {FIELD(iframe_code), STRUCT_IFRAME, {"f_code", "f_executable"}, 0x030b, 0xffff},
    {FIELD(iframe_previous), STRUCT_IFRAME, {"previous"}, 0x030b, 0xffff},
    {FIELD(iframe_instr), STRUCT_IFRAME, {"prev_instr", "instr_ptr"}, 0x030b, 0xffff},
    {FIELD(iframe_owner), STRUCT_IFRAME, {"owner"}, 0x030b, 0xffff},
    {FIELD(frame_back), STRUCT_FRAME, {"f_back"}, 0x0300, 0x030a},
    {FIELD(frame_code), STRUCT_FRAME, {"f_code"}, 0x0300, 0x030a},
    {FIELD(frame_lasti), STRUCT_FRAME, {"f_lasti"}, 0x0300, 0x030a},
    {FIELD(code_filename), STRUCT_CODE, {"co_filename"}, 0x0300, 0xffff},
    {FIELD(code_name), STRUCT_CODE, {"co_name"}, 0x0300, 0xffff},
    {FIELD(code_qualname), STRUCT_CODE, {"co_qualname"}, 0x030b, 0xffff},
    {FIELD(code_firstlineno), STRUCT_CODE, {"co_firstlineno"}, 0x0300, 0xffff},
    {FIELD(code_adaptive), STRUCT_CODE, {"co_code_adaptive"}, 0x030b, 0xffff},
    {FIELD(code_firsttraceable), STRUCT_CODE, {"_co_firsttraceable"}, 0x030b, 0xffff},
    {FIELD(code_nbytes_size), STRUCT_VAR_OBJECT, {"ob_size"}, 0x030b, 0xffff},
    {FIELD(ascii_length), STRUCT_ASCII, {"length"}, 0x0300, 0xffff},
    {FIELD(ascii_state), STRUCT_ASCII, {"state"}, 0x0300, 0xffff},
    {FIELD(object_type), STRUCT_OBJECT, {"ob_type"}, 0x0300, 0xffff},
};

struct search {
    uint32_t version;
    Dwarf_Die found[STRUCTS];
    bool have[STRUCTS];
};

static bool needed(uint32_t version, uint32_t since, uint32_t until)
{
    return version >= since && version <= until;
}

static bool is_complete(const struct search *search)
{
    for (int i = 0; i < STRUCTS; i++) {
        if (!search->have[i] && needed(search->version, structs[i].since, structs[i].until))
            return false;
    }
    return true;
}

/* A complete struct that die is, or that it is a typedef of. */
static bool resolve_struct(Dwarf_Die *die, Dwarf_Die *ret)
{
    *ret = *die;
    for (int depth = 0; depth < 4; depth++) {
        Dwarf_Attribute attribute;
        if (dwarf_tag(ret) == DW_TAG_structure_type)
            return dwarf_haschildren(ret) == 1 && !dwarf_hasattr_integrate(ret, DW_AT_declaration);
        if (dwarf_tag(ret) != DW_TAG_typedef ||
            dwarf_attr_integrate(ret, DW_AT_type, &attribute) == NULL ||
            dwarf_formref_die(&attribute, ret) == NULL)
            return false;
    }
    return false;
}

static void look_at(struct search *search, Dwarf_Die *die)
{
    int tag = dwarf_tag(die);
    const char *name =
        tag == DW_TAG_structure_type || tag == DW_TAG_typedef ? dwarf_diename(die) : NULL;
    if (name == NULL)
        return;
    for (int i = 0; i < STRUCTS; i++) {
        for (size_t n = 0; !search->have[i] && n < G_N_ELEMENTS(structs[i].names); n++) {
            if (structs[i].names[n] != NULL && strcmp(structs[i].names[n], name) == 0)
                search->have[i] = resolve_struct(die, &search->found[i]);
        }
    }
}

static void search_unit(struct search *search, Dwarf_Die *unit)
{
    Dwarf_Die child;
    if (dwarf_child(unit, &child) != 0)
        return;
    do {
        look_at(search, &child);
    } while (dwarf_siblingof(&child, &child) == 0);
}

/* The types are in many units; these few have them all, and are looked through first. */
static bool search_units(struct search *search, Dwarf *dwarf)
{
    static const char *const likely[] = {"ceval.c", "frameobject.c", "pystate.c", "codeobject.c",
                                         "unicodeobject.c"};
    for (int pass = 0; pass < 2; pass++) {
        Dwarf_CU *unit = NULL;
        Dwarf_Die die;
        while (dwarf_get_units(dwarf, unit, &unit, NULL, NULL, &die, NULL) == 0) {
            const char *name = dwarf_diename(&die);
            const char *slash = name != NULL ? strrchr(name, '/') : NULL;
            const char *base = slash != NULL ? slash + 1 : name;
            bool is_likely = false;
            for (size_t i = 0; base != NULL && i < G_N_ELEMENTS(likely); i++)
                is_likely |= strcmp(base, likely[i]) == 0;
            if (is_likely == (pass == 0))
                search_unit(search, &die);
            if (is_complete(search))
                return true;
        }
    }
    return false;
}

static int32_t member_offset(Dwarf_Die *structure, const char *name)
{
    Dwarf_Die member;
    if (name == NULL || dwarf_child(structure, &member) != 0)
        return TM_NO_FIELD;
    do {
        Dwarf_Attribute attribute;
        Dwarf_Word offset = 0;
        const char *found = dwarf_diename(&member);
        if (dwarf_tag(&member) == DW_TAG_member && found != NULL && strcmp(found, name) == 0 &&
            dwarf_attr_integrate(&member, DW_AT_data_member_location, &attribute) != NULL &&
            dwarf_formudata(&attribute, &offset) == 0 && offset < 1u << 20)
            return (int32_t)offset;
    } while (dwarf_siblingof(&member, &member) == 0);
    return TM_NO_FIELD;
}

static bool fill_layout(struct search *search, struct tm_layout *ret, GError **error)
{
    struct tm_layout layout;
    memset(&layout, 0xff, sizeof(layout)); /* TM_NO_FIELD everywhere */
    memset(layout.reserved, 0, sizeof(layout.reserved));
    layout.source = TM_LAYOUT_DWARF;
    layout.py_version = search->version;
    for (size_t i = 0; i < G_N_ELEMENTS(fields); i++) {
        if (!needed(search->version, fields[i].since, fields[i].until))
            continue;
        Dwarf_Die *in = &search->found[fields[i].in];
        int32_t offset = member_offset(in, fields[i].names[0]);
        if (offset == TM_NO_FIELD)
            offset = member_offset(in, fields[i].names[1]);
        if (offset == TM_NO_FIELD) {
            g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                        "the debug information has no member %s", fields[i].names[0]);
            return false;
        }
        memcpy((char *)&layout + fields[i].field, &offset, sizeof(offset));
    }
    layout.ascii_size = dwarf_bytesize(&search->found[STRUCT_ASCII]);
    layout.compact_size = dwarf_bytesize(&search->found[STRUCT_COMPACT]);
    *ret = layout;
    return true;
}

static bool layout_from(Dwarf *dwarf, const struct tm_python *python, struct tm_layout *ret,
                        GError **error)
{
    struct search search = {.version = python->version_hex >> 16};
    if (search_units(&search, dwarf))
        return fill_layout(&search, ret, error);
    g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                "the debug information of %s lacks types of the interpreter", python->module->path);
    return false;
}

/* The candidate must be of the very same build. */
static tm_elf *open_debug_file(const char *path, const char *build_id)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    g_autoptr(tm_elf) elf = fd >= 0 ? tm_elf_open_fd(fd, NULL) : NULL;
    g_autofree char *found = elf != NULL ? tm_elf_build_id(elf) : NULL;
    if (found == NULL || g_strcmp0(found, build_id) != 0)
        return NULL;
    return g_steal_pointer(&elf);
}

static tm_elf *find_debug_file(pid_t pid, const struct tm_module *module)
{
    g_autofree char *build_id = tm_elf_build_id(module->elf);
    GElf_Shdr header;
    Elf_Data *link = tm_elf_section(module->elf, ".gnu_debuglink", &header);
    if (build_id == NULL || strlen(build_id) < 3)
        return NULL;
    g_autofree char *by_id =
        g_strdup_printf("/usr/lib/debug/.build-id/%.2s/%s.debug", build_id, build_id + 2);
    g_autofree char *folder = g_path_get_dirname(module->path);
    g_autofree char *name =
        link != NULL && link->d_buf != NULL ? g_strndup(link->d_buf, link->d_size) : g_strdup("?");
    g_autofree char *by_link = g_strdup_printf("/usr/lib/debug%s/%s", folder, name);
    const char *const paths[] = {by_id, by_link};
    for (size_t i = 0; i < G_N_ELEMENTS(paths); i++) {
        g_autofree char *theirs = g_strdup_printf("/proc/%d/root%s", (int)pid, paths[i]);
        tm_elf *elf = open_debug_file(theirs, build_id);
        if (elf == NULL)
            elf = open_debug_file(paths[i], build_id);
        if (elf != NULL)
            return elf;
    }
    return NULL;
}

bool tm_layout_from_dwarf(tm_modules *modules, const struct tm_python *python,
                          struct tm_layout *ret, GError **error)
{
    if (python->module == NULL || !tm_module_open(modules, python->module, error))
        return false;
    GElf_Shdr header;
    g_autoptr(tm_elf) separate = NULL;
    Elf *elf = python->module->elf->elf;
    if (tm_elf_section(python->module->elf, ".debug_info", &header) == NULL) {
        separate = find_debug_file(modules->pid, python->module);
        elf = separate != NULL ? separate->elf : NULL;
    }
    Dwarf *dwarf = elf != NULL ? dwarf_begin_elf(elf, DWARF_C_READ, NULL) : NULL;
    if (dwarf == NULL) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                    "%s has no debug information, neither in it nor beside it",
                    python->module->path);
        return false;
    }
    bool done = layout_from(dwarf, python, ret, error);
    dwarf_end(dwarf);
    return done;
}
