// SPDX-License-Identifier: MIT
/* Symbols through libdwfl (which finds separate debug files) and libdw. */
#include "analyzer/symbol_file.h"

#include <dlfcn.h>
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analyzer/error.h"
#include "analyzer/symbol_scopes.h"
#include "analyzer/symbol_table.h"

struct TmSymbolFile {
    Dwfl *dwfl;
    Dwfl_Module *module;
    Dwarf_Addr bias;        /* of the debug file's addresses */
    TmSymbolScopes *scopes; /* NULL: no DWARF */
    GHashTable *names;      /* Dwarf_Die.addr -> what it is called */
    TmSymbolTable *table;   /* NULL until DWARF could not tell */
    TmSymbolLacks lacks;
    gboolean has_symtab;
    char *debug_path; /* libdwfl keeps a pointer to it */
    Dwfl_Callbacks callbacks;
};

/* --- names --- */

/* C++ names, by the C++ library where there is one; as they are otherwise. */
static const char *demangle(const char *name)
{
    static gsize once;
    static char *(*cxa_demangle)(const char *, char *, size_t *, int *);
    char *plain = NULL;
    const char *result;
    int status = -1;

    if (g_once_init_enter(&once)) {
        void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_LOCAL);
        if (library)
            *(void **)&cxa_demangle = dlsym(library, "__cxa_demangle");
        g_once_init_leave(&once, 1);
    }
    if (cxa_demangle && strncmp(name, "_Z", 2) == 0)
        plain = cxa_demangle(name, NULL, NULL, &status);
    result = g_intern_string(plain && status == 0 ? plain : name);
    free(plain);
    return result;
}

static const char *linkage_name(Dwarf_Die *die)
{
    static const unsigned names[] = {DW_AT_linkage_name, DW_AT_MIPS_linkage_name};
    Dwarf_Attribute attribute;

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        const char *name = NULL;
        if (dwarf_attr_integrate(die, names[i], &attribute))
            name = dwarf_formstring(&attribute);
        if (name)
            return demangle(name);
    }
    return NULL;
}

/* The symbol around an address. */
static const char *symbol_name(TmSymbolFile *self, guint64 address)
{
    if (self->table == NULL)
        self->table = tm_symbol_table_new(self->module, self->has_symtab);
    return tm_symbol_table_find(self->table, address);
}

/* clang's -gline-tables-only says "f" without where it is declared or what it takes; the symbol has
 * all. Not so for what has a bare name in whole debug information, static functions for one: they
 * are called the same where they are inlined. NULL where the symbol has no more. */
static const char *full_name(TmSymbolFile *self, const TmSymbolUnit *unit, Dwarf_Die *function,
                             guint64 address)
{
    Dwarf_Die die = unit->die;
    const char *symbol;
    g_autofree char *name = NULL;

    if (dwarf_hasattr_integrate(function, DW_AT_decl_line))
        return NULL;
    switch (dwarf_srclang(&die)) {
    case DW_LANG_C_plus_plus:
    case DW_LANG_C_plus_plus_03:
    case DW_LANG_C_plus_plus_11:
    case DW_LANG_C_plus_plus_14:
        break;
    default:
        return NULL;
    }
    symbol = symbol_name(self, address);
    if (symbol == NULL || strncmp(symbol, "_Z", 2) != 0)
        return NULL;
    name = g_strndup(symbol, strcspn(symbol, ".")); /* "f.cold", "f.part.0": f */
    return demangle(name);
}

/* NULL: it has none. The symbol is asked for only where the function itself is meant, not what is
 * inlined into it. */
static const char *scope_name(TmSymbolFile *self, const TmSymbolUnit *unit, Dwarf_Die *scope,
                              gboolean is_function, guint64 address)
{
    Dwarf_Attribute attribute;
    const char *name;

    if (g_hash_table_lookup_extended(self->names, scope->addr, NULL, (void **)&name))
        return name;
    name = linkage_name(scope);
    if (name == NULL && is_function)
        name = full_name(self, unit, scope, address);
    if (name == NULL && dwarf_attr_integrate(scope, DW_AT_name, &attribute)) {
        name = dwarf_formstring(&attribute);
        name = name ? g_intern_string(name) : NULL;
    }
    g_hash_table_insert(self->names, scope->addr, (void *)name);
    return name;
}

/* --- which file --- */

static char *build_id_of(Elf *elf)
{
    const guint8 *bytes;
    ssize_t n_bytes = dwelf_elf_gnu_build_id(elf, (const void **)&bytes);
    GString *text;

    if (n_bytes <= 0)
        return NULL;
    text = g_string_new(NULL);
    for (ssize_t i = 0; i < n_bytes; i++)
        g_string_append_printf(text, "%02x", bytes[i]);
    return g_string_free(text, FALSE);
}

static guint64 extent_of(Elf *elf)
{
    guint64 low = G_MAXUINT64, high = 0;
    size_t n = 0;

    elf_getphdrnum(elf, &n);
    for (size_t i = 0; i < n; i++) {
        GElf_Phdr phdr;
        if (gelf_getphdr(elf, (int)i, &phdr) == NULL || phdr.p_type != PT_LOAD)
            continue;
        low = MIN(low, phdr.p_vaddr);
        high = MAX(high, phdr.p_vaddr + phdr.p_memsz);
    }
    return high > low ? high - low : 0;
}

/* Whether the open file is the module that was traced. */
static gboolean is_same(int fd, const TmSymbolRequest *request, GError **error)
{
    Elf *elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
    g_autofree char *build_id = elf ? build_id_of(elf) : NULL;
    gboolean same = FALSE;

    if (elf == NULL || elf_kind(elf) != ELF_K_ELF)
        tm_error_data(error, "is not an ELF file");
    else if (build_id == NULL && request->build_id)
        tm_error_data(error, "is not the file that was traced: it has no build-id, that one had %s",
                      request->build_id);
    else if (build_id && request->build_id == NULL)
        tm_error_data(error,
                      "is not the file that was traced: its build-id is %s, that one had none",
                      build_id);
    else if (g_strcmp0(build_id, request->build_id) != 0)
        tm_error_data(error, "is not the file that was traced: its build-id is %s, not %s",
                      build_id, request->build_id);
    else if (build_id == NULL && extent_of(elf) != request->extent_bytes)
        tm_error_data(error, "is not the file that was traced: its size differs");
    else
        same = TRUE;
    elf_end(elf);
    return same;
}

static int open_checked(const char *path, const TmSymbolRequest *request, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        tm_error_data(error, "%s", g_strerror(errno));
        return -1;
    }
    if (is_same(fd, request, error))
        return fd;
    close(fd);
    return -1;
}

/* DIR/.build-id/xx/rest.debug, in the user's folders and then in the usual one. */
static int open_by_build_id(const TmSymbolRequest *request, char **ret_path)
{
    static char usual[] = "/usr/lib/debug";
    char *const *dirs = request->debug_dirs;

    for (guint i = 0; request->build_id && strlen(request->build_id) > 2; i++) {
        const char *dir = dirs && dirs[i] ? dirs[i] : usual;
        g_autofree char *path = g_strdup_printf("%s/.build-id/%.2s/%s.debug", dir,
                                                request->build_id, request->build_id + 2);
        int fd = open_checked(path, request, NULL);
        if (fd >= 0) {
            *ret_path = g_steal_pointer(&path);
            return fd;
        }
        if (dir == usual)
            break;
    }
    return -1;
}

static char *debug_path(char *const *dirs)
{
    GString *path = g_string_new(":.debug");

    for (; dirs && *dirs; dirs++)
        g_string_append_printf(path, ":%s", *dirs);
    g_string_append(path, ":/usr/lib/debug");
    return g_string_free(path, FALSE);
}

static gboolean has_symtab(Dwfl_Module *module)
{
    Dwarf_Addr bias;
    Elf *elf = dwfl_module_getelf(module, &bias);

    for (Elf_Scn *section = elf ? elf_nextscn(elf, NULL) : NULL; section;
         section = elf_nextscn(elf, section)) {
        GElf_Shdr header;
        if (gelf_getshdr(section, &header) && header.sh_type == SHT_SYMTAB)
            return TRUE;
    }
    return FALSE;
}

static void read_symbols(TmSymbolFile *self)
{
    Dwarf *dwarf = dwfl_module_getdwarf(self->module, &self->bias);

    self->has_symtab = has_symtab(self->module);
    if (dwarf)
        self->scopes = tm_symbol_scopes_new(dwarf);
    else if (!self->has_symtab)
        self->lacks |= TM_SYMBOL_LACKS_SYMBOLS;
}

TmSymbolFile *tm_symbol_file_open(const TmSymbolRequest *request, GError **error)
{
    g_autofree char *path = g_strdup(request->path);
    g_autoptr(GError) reason = NULL;
    TmSymbolFile *self;
    int fd;

    elf_version(EV_CURRENT);
    fd = open_checked(path, request, &reason);
    if (fd < 0) {
        char *found = NULL;
        fd = open_by_build_id(request, &found);
        if (fd < 0) {
            g_propagate_error(error, g_steal_pointer(&reason));
            return NULL;
        }
        g_free(path);
        path = found;
    }
    self = g_new0(TmSymbolFile, 1);
    self->names = g_hash_table_new(NULL, NULL);
    self->lacks = request->build_id ? 0 : TM_SYMBOL_LACKS_BUILD_ID;
    self->debug_path = debug_path(request->debug_dirs);
    self->callbacks = (Dwfl_Callbacks){
        .find_elf = dwfl_build_id_find_elf,
        .find_debuginfo = dwfl_standard_find_debuginfo,
        .section_address = dwfl_offline_section_address,
        .debuginfo_path = &self->debug_path,
    };
    self->dwfl = dwfl_begin(&self->callbacks);
    if (self->dwfl) {
        dwfl_report_begin(self->dwfl);
        /* At its own addresses: base 0 and p_vaddr on top. The descriptor is libdwfl's on success.
         */
        self->module = dwfl_report_elf(self->dwfl, path, path, fd, 0, true);
        dwfl_report_end(self->dwfl, NULL, NULL);
    }
    if (self->module) {
        read_symbols(self);
        return self;
    }
    tm_error_data(error, "%s", dwfl_errmsg(-1));
    close(fd);
    tm_symbol_file_free(self);
    return NULL;
}

void tm_symbol_file_free(TmSymbolFile *file)
{
    if (file == NULL)
        return;
    tm_symbol_scopes_free(file->scopes);
    tm_symbol_table_free(file->table);
    g_hash_table_unref(file->names);
    if (file->dwfl)
        dwfl_end(file->dwfl);
    g_free(file->debug_path);
    g_free(file);
}

TmSymbolLacks tm_symbol_file_get_lacks(const TmSymbolFile *file)
{
    gboolean split = file->scopes && tm_symbol_scopes_lack_split(file->scopes);

    return file->lacks | (split ? TM_SYMBOL_LACKS_SPLIT : 0);
}

/* --- frames --- */

static void add(GArray *frames, const char *function, const char *file, int line)
{
    TmSymbol symbol = {function, file ? g_intern_string(file) : NULL, line > 0 ? line : 0};
    g_array_append_val(frames, symbol);
}

/* Where an inlined function was called. */
static void call_place(Dwarf_Die *unit, Dwarf_Die *inlined, const char **ret_file, int *ret_line)
{
    Dwarf_Attribute attribute;
    Dwarf_Files *files;
    Dwarf_Word value;
    size_t n_files;

    *ret_file = NULL;
    *ret_line = 0;
    if (dwarf_attr(inlined, DW_AT_call_file, &attribute) &&
        dwarf_formudata(&attribute, &value) == 0 &&
        dwarf_getsrcfiles(unit, &files, &n_files) == 0 && value < n_files)
        *ret_file = dwarf_filesrc(files, value, NULL, NULL);
    if (dwarf_attr(inlined, DW_AT_call_line, &attribute) &&
        dwarf_formudata(&attribute, &value) == 0 && value <= G_MAXINT)
        *ret_line = (int)value;
}

/* From the innermost function to the one that has the code; none where DWARF knows no function.
 * Gives the address's own file and line. */
static void add_scopes(TmSymbolFile *self, Dwarf_Addr address, const char **ret_file, int *ret_line,
                       GArray *frames)
{
    g_autoptr(GArray) scopes = g_array_new(FALSE, FALSE, sizeof(Dwarf_Die));
    TmSymbolUnit *unit = tm_symbol_scopes_find(self->scopes, address, scopes);
    Dwarf_Line *source = unit ? dwarf_getsrc_die(&unit->skeleton, address) : NULL;
    const char *file;
    int line = 0;

    if (source) {
        *ret_file = dwarf_linesrc(source, NULL, NULL);
        dwarf_lineno(source, ret_line);
    }
    file = *ret_file;
    line = *ret_line;
    for (guint i = scopes->len; i-- > 0;) {
        Dwarf_Die *scope = &g_array_index(scopes, Dwarf_Die, i);
        const char *name = scope_name(self, unit, scope, i == 0, address + self->bias);
        if (name)
            add(frames, name, file, line);
        if (i)
            call_place(&unit->die, scope, &file, &line);
    }
}

GArray *tm_symbol_file_find(TmSymbolFile *file, guint64 address)
{
    GArray *frames = g_array_new(FALSE, FALSE, sizeof(TmSymbol));
    const char *path = NULL, *symbol;
    int line = 0;

    if (file->scopes)
        add_scopes(file, address - file->bias, &path, &line, frames);
    if (frames->len == 0) {
        symbol = symbol_name(file, address);
        if (symbol)
            add(frames, demangle(symbol), path, line);
    }
    return frames;
}
