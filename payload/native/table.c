// SPDX-License-Identifier: MIT
#include "payload/native/table.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "payload/hooks.h"
#include "payload/mem.h"
#include "payload/native/loader.h"
#include "payload/native/stack.h"
#include "payload/state.h"

enum { FIRST_ROWS = 4096, PATHS_ARENA_BYTES = 1 << 20, PATH_BYTES = 4096 };

/* Files and the text of their paths: fixed places, so that readers need no lock. Written by the
 * thread that builds maps. */
static struct tm_state_module *files; /* TM_NATIVE_MODULES_MAX, sparse */
static char *paths;                   /* PATHS_ARENA_BYTES, sparse */
static uint32_t paths_used;

uint32_t tm_native_file_count(void)
{
    return atomic_load_explicit(&tm_state_export.module_count, memory_order_acquire);
}

const struct tm_state_module *tm_native_file_at(uint32_t index)
{
    return &files[index];
}

void tm_native_files_done(void)
{
    atomic_store(&tm_state_export.module_count, 0);
    tm_state_export.modules_addr = 0;
    tm_mem_unmap_sparse(files, TM_NATIVE_MODULES_MAX * sizeof(*files));
    tm_mem_unmap_sparse(paths, PATHS_ARENA_BYTES);
    files = NULL;
    paths = NULL;
    paths_used = 0;
}

void tm_native_files_abandon(void)
{
    atomic_store(&tm_state_export.module_count, 0);
    tm_state_export.modules_addr = 0;
    files = NULL;
    paths = NULL;
    paths_used = 0;
}

/* ---- what the loader tells of a module ---- */

static bool read_note(const uint8_t *note, size_t n_bytes, struct tm_state_module *ret)
{
    while (n_bytes >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) header;
        memcpy(&header, note, sizeof(header));
        size_t name_bytes = ((size_t)header.n_namesz + 3) & ~(size_t)3;
        size_t desc_bytes = ((size_t)header.n_descsz + 3) & ~(size_t)3;
        size_t total = sizeof(header) + name_bytes + desc_bytes;
        if (total > n_bytes || name_bytes > n_bytes || desc_bytes > n_bytes)
            return false;
        if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 &&
            header.n_descsz <= TM_BUILD_ID_MAX && memcmp(note + sizeof(header), "GNU", 4) == 0) {
            ret->build_id_addr = (uint64_t)(note + sizeof(header) + name_bytes);
            memcpy(ret->build_id, (const void *)ret->build_id_addr, header.n_descsz);
            ret->build_id_bytes = header.n_descsz;
            return true;
        }
        note += total;
        n_bytes -= total;
    }
    return false;
}

/* Where the module lies, and which segment holds its tables. */
static bool look(const struct dl_phdr_info *info, struct tm_state_module *ret_file,
                 struct tm_cfi_module *ret_module)
{
    *ret_file = (struct tm_state_module){.start = UINT64_MAX, .bias = info->dlpi_addr};
    *ret_module = (struct tm_cfi_module){0};
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *phdr = &info->dlpi_phdr[i];
        uint64_t start = info->dlpi_addr + phdr->p_vaddr, end = start + phdr->p_memsz;
        if (phdr->p_type == PT_LOAD) {
            ret_file->start = start < ret_file->start ? start : ret_file->start;
            ret_file->end = end > ret_file->end ? end : ret_file->end;
        } else if (phdr->p_type == PT_GNU_EH_FRAME) {
            ret_file->hdr_addr = start;
        } else if (phdr->p_type == PT_NOTE && ret_file->build_id_bytes == 0) {
            read_note((const uint8_t *)start, phdr->p_memsz, ret_file);
        }
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *phdr = &info->dlpi_phdr[i];
        uint64_t start = info->dlpi_addr + phdr->p_vaddr;
        if (phdr->p_type == PT_LOAD && (phdr->p_flags & PF_R) &&
            ret_file->hdr_addr - start < phdr->p_filesz) {
            ret_module->read_start = start;
            ret_module->read_end = start + phdr->p_filesz;
        }
    }
    ret_module->start = ret_file->start;
    ret_module->end = ret_file->end;
    ret_module->hdr_addr = ret_file->hdr_addr;
    return ret_file->start < ret_file->end;
}

static const char *keep_path(const struct dl_phdr_info *info)
{
    char exe[PATH_BYTES];
    const char *path = info->dlpi_name ? info->dlpi_name : "";
    if (path[0] == '\0') { /* the program itself */
        ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
        exe[n > 0 ? n : 0] = '\0';
        path = exe;
    }
    size_t n_bytes = strlen(path) + 1;
    if (n_bytes > PATHS_ARENA_BYTES - paths_used)
        return "";
    char *copy = memcpy(paths + paths_used, path, n_bytes);
    paths_used += (uint32_t)n_bytes;
    return copy;
}

/* The path says which file, the rest that it is still the same one. */
static bool same_file(const struct tm_state_module *a, const struct tm_state_module *b)
{
    return a->start == b->start && a->end == b->end && a->bias == b->bias &&
           a->hdr_addr == b->hdr_addr && a->build_id_bytes == b->build_id_bytes &&
           memcmp(a->build_id, b->build_id, a->build_id_bytes) == 0;
}

static uint32_t find_file(const struct tm_state_module *file, const struct dl_phdr_info *info)
{
    uint32_t n = tm_native_file_count();
    for (uint32_t i = 0; i < n; i++)
        if (same_file(&files[i], file) &&
            (info->dlpi_name == NULL || info->dlpi_name[0] == '\0' ||
             strcmp((const char *)files[i].path_addr, info->dlpi_name) == 0))
            return i;
    if (n == TM_NATIVE_MODULES_MAX)
        return UINT32_MAX;
    files[n] = *file;
    files[n].path_addr = (uint64_t)keep_path(info);
    atomic_store_explicit(&tm_state_export.module_count, n + 1, memory_order_release);
    return n;
}

/* ---- tables ---- */

struct rows {
    struct tm_cfi_row *rows;
    uint32_t used, capacity;
};

static bool take_row(void *data, struct tm_cfi_row row)
{
    struct rows *r = data;
    if (r->used > 0 && r->rows[r->used - 1].pc_offset == row.pc_offset) {
        r->rows[r->used - 1] = row;
        return true;
    }
    if (r->used == r->capacity) {
        uint32_t capacity = r->capacity ? r->capacity * 2 : FIRST_ROWS;
        struct tm_cfi_row *rows = tm_mem_map_sparse((size_t)capacity * sizeof(*rows));
        if (rows == NULL)
            return false;
        if (r->used > 0)
            memcpy(rows, r->rows, (size_t)r->used * sizeof(*rows));
        tm_mem_unmap_sparse(r->rows, (size_t)r->capacity * sizeof(*rows));
        r->rows = rows;
        r->capacity = capacity;
    }
    r->rows[r->used++] = row;
    return true;
}

static struct tm_native_table *table_make(const struct tm_cfi_module *module)
{
    struct rows r = {0};
    struct tm_native_table *table = tm_mem_map(sizeof(*table));
    if (table == NULL)
        return NULL;
    if (module->hdr_addr != 0 && tm_cfi_compile(module, take_row, &r))
        table->rows = tm_mem_map((size_t)r.used * sizeof(*r.rows));
    if (table->rows != NULL) {
        memcpy(table->rows, r.rows, (size_t)r.used * sizeof(*r.rows));
        table->n_rows = r.used;
    }
    tm_mem_unmap_sparse(r.rows, (size_t)r.capacity * sizeof(*r.rows));
    table->users = 1;
    return table;
}

static void table_unref(struct tm_native_table *table)
{
    if (table == NULL || --table->users > 0)
        return;
    tm_mem_unmap(table->rows, (size_t)table->n_rows * sizeof(*table->rows));
    tm_mem_unmap(table, sizeof(*table));
}

uint32_t tm_native_range_rule(const struct tm_native_range *range, uint64_t pc)
{
    const struct tm_native_table *table = range->table;
    uint32_t offset = (uint32_t)(pc - 1 - range->start);
    uint32_t low = 0, high = table->n_rows;
    while (low < high) { /* the first row behind it */
        uint32_t middle = low + (high - low) / 2;
        if (table->rows[middle].pc_offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 ? table->rows[low - 1].rule : TM_CFI_UNKNOWN;
}

bool tm_native_range_is_there(const struct tm_native_map *map, const struct tm_native_range *range)
{
    const struct tm_state_module *file = &files[range->file];
    uint64_t last = file->build_id_addr + file->build_id_bytes - sizeof(uint64_t);
    if (range->start == map->own_start)
        return true;
    return file->build_id_bytes >= sizeof(uint64_t) && tm_native_is_readable(file->build_id_addr) &&
           tm_native_is_readable(last) &&
           memcmp((const void *)file->build_id_addr, file->build_id, file->build_id_bytes) == 0;
}

/* ---- maps ---- */

struct build {
    struct tm_native_map *map;
    const struct tm_native_map *old;
    uint32_t skip; /* modules that earlier rounds have handled */
    uint32_t at;
    bool made_table; /* this round */
    bool failed, overflow;
};

static struct tm_native_table *share_table(const struct tm_native_map *old, uint32_t file)
{
    for (uint32_t i = 0; old != NULL && i < old->n_ranges; i++) {
        if (old->ranges[i].file != file)
            continue;
        old->ranges[i].table->users++;
        return old->ranges[i].table;
    }
    return NULL;
}

static void insert(struct tm_native_map *map, struct tm_native_range range)
{
    uint32_t i = map->n_ranges++;
    for (; i > 0 && map->ranges[i - 1].start > range.start; i--)
        map->ranges[i] = map->ranges[i - 1];
    map->ranges[i] = range;
}

static bool take_module(struct build *build, const struct dl_phdr_info *info)
{
    struct tm_state_module file;
    struct tm_cfi_module module;
    if (!look(info, &file, &module))
        return true;
    uint32_t index = find_file(&file, info);
    if (index == UINT32_MAX || build->map->n_ranges == TM_NATIVE_MODULES_MAX)
        return true; /* its frames will be in no known module */
    struct tm_native_table *table = share_table(build->old, index);
    if (table == NULL) {
        table = table_make(&module);
        build->made_table = true;
    }
    if (table == NULL)
        return false;
    insert(build->map, (struct tm_native_range){file.start, file.end, table, index, 0});
    uint64_t self = (uint64_t)(uintptr_t)tm_native_map_build;
    if (self - file.start < file.end - file.start) {
        build->map->own_start = file.start;
        build->map->own_end = file.end;
    }
    return true;
}

/* Under the loader's lock, which a program's dlopen waits for, and the GIL: one new module a round.
 */
static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
    struct build *build = data;
    if (size >= offsetof(struct dl_phdr_info, dlpi_subs) + sizeof(info->dlpi_subs)) {
        if (build->at == 0 && build->skip > 0 &&
            (build->map->adds != info->dlpi_adds || build->map->subs != info->dlpi_subs)) {
            build->overflow = true; /* the list has changed: begin again */
            return 1;
        }
        build->map->adds = info->dlpi_adds;
        build->map->subs = info->dlpi_subs;
    }
    if (build->at++ < build->skip)
        return 0;
    build->skip++;
    if (!take_module(build, info)) {
        build->failed = true;
        return 1;
    }
    return build->made_table;
}

static int visit_version(struct dl_phdr_info *info, size_t size, void *data)
{
    uint64_t *ret = data;
    if (size >= offsetof(struct dl_phdr_info, dlpi_subs) + sizeof(info->dlpi_subs)) {
        ret[0] = info->dlpi_adds;
        ret[1] = info->dlpi_subs;
    }
    return 1;
}

void tm_native_wait_for_loader(void)
{
    uint64_t unused[2];
    dl_iterate_phdr(visit_version, unused);
}

bool tm_native_map_is_stale(const struct tm_native_map *map)
{
    uint64_t now[2] = {map->adds, map->subs};
    if (tm_native_loader.loaded != NULL)
        return tm_native_loader_stamp() != map->stamp; /* asked often: without the lock */
    dl_iterate_phdr(visit_version, now);
    return now[0] != map->adds || now[1] != map->subs;
}

/* dl_iterate_phdr holds a lock that fork does not set free in the child (glibc 2.36, posix/fork.c;
 * dl_load_write_lock): the child's next dlopen would wait for ever. Python forks with the GIL,
 * which keeps it from forking meanwhile; nobody waits for the GIL with that lock. */
static bool build_once(struct build *build)
{
    do {
        int gil;
        build->at = 0;
        build->made_table = false;
        if (tm_hooks_gil_take(&gil) < 0) {
            build->failed = true;
            break;
        }
        dl_iterate_phdr(visit, build);
        tm_hooks_gil_drop(gil);
    } while (build->made_table && !build->failed && !build->overflow);
    return !build->failed;
}

struct tm_native_map *tm_native_map_build(const struct tm_native_map *old)
{
    enum { ATTEMPTS = 4 };
    int saved_errno = errno;
    if (files == NULL)
        files = tm_mem_map_sparse(TM_NATIVE_MODULES_MAX * sizeof(*files));
    tm_state_export.modules_addr = (uint64_t)files;
    if (paths == NULL)
        paths = tm_mem_map_sparse(PATHS_ARENA_BYTES);
    struct tm_native_map *map = NULL;
    bool ok = false;
    for (int i = 0; i < ATTEMPTS && files != NULL && paths != NULL && !ok; i++) {
        struct build build = {.map = tm_mem_map_sparse(sizeof(*map)), .old = old};
        uint64_t stamp = tm_native_loader_stamp();
        ok = build.map != NULL && build_once(&build) && !build.overflow;
        if (ok)
            build.map->stamp = stamp;
        if (ok)
            map = build.map;
        else
            tm_native_map_free(build.map);
        if (build.failed)
            break;
    }
    errno = saved_errno;
    return map;
}

void tm_native_map_free(struct tm_native_map *map)
{
    if (map == NULL)
        return;
    for (uint32_t i = 0; i < map->n_ranges; i++)
        table_unref(map->ranges[i].table);
    tm_mem_unmap_sparse(map, sizeof(*map));
}

/* ---- one function ---- */

struct function {
    uint64_t start, end;
};

static int visit_function(struct dl_phdr_info *info, size_t size, void *data)
{
    struct function *function = data;
    struct tm_state_module file;
    struct tm_cfi_module module;
    (void)size;
    if (!look(info, &file, &module) || function->start - file.start >= file.end - file.start)
        return 0;
    function->end = function->start + tm_cfi_function_bytes(&module, function->start);
    return 1;
}

uint64_t tm_native_function_end(uint64_t start)
{
    struct function function = {start, start};
    dl_iterate_phdr(visit_function, &function);
    return function.end;
}
