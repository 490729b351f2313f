// SPDX-License-Identifier: MIT
/* The ELF files that are mapped in a process. Never stops it. */
#include "inspect/module.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inspect/error.h"
#include "inspect/memory.h"
#include "inspect/process.h"

#define VDSO_NAME "[vdso]"

static bool can_be_module(const struct tm_map *map)
{
    return (map->inode != 0 && map->path[0] == '/') || strcmp(map->path, VDSO_NAME) == 0;
}

/* A mapping goes on with the module before it where it is the same file at a higher offset; at
 * offset 0 another copy of the file begins (dlmopen, or a data file mapped twice). */
static bool continues(const struct tm_module *module, const struct tm_map *map)
{
    return module->inode == map->inode && map->offset_bytes != 0 &&
           strcmp(module->path, map->path) == 0;
}

tm_modules *tm_modules_read(pid_t pid, GError **error)
{
    pid = tm_process_living(pid);
    tm_maps *maps = tm_maps_read(pid, error);
    if (maps == NULL)
        return NULL;
    tm_modules *self = tm_modules_from_maps(maps);
    self->pid = pid;
    return self;
}

tm_modules *tm_modules_from_maps(tm_maps *maps)
{
    GArray *items = g_array_new(FALSE, TRUE, sizeof(struct tm_module));
    for (size_t i = 0; i < maps->count; i++) {
        const struct tm_map *map = &maps->items[i];
        if (!can_be_module(map))
            continue;
        struct tm_module *last =
            items->len > 0 ? &g_array_index(items, struct tm_module, items->len - 1) : NULL;
        if (last != NULL && continues(last, map)) {
            last->end_addr = map->end_addr;
        } else if (map->offset_bytes == 0) {
            struct tm_module module = {.path = map->path,
                                       .deleted = map->deleted,
                                       .start_addr = map->start_addr,
                                       .end_addr = map->end_addr,
                                       .first_map_end_addr = map->end_addr,
                                       .inode = map->inode};
            g_array_append_val(items, module);
        }
    }
    tm_modules *self = g_new0(tm_modules, 1);
    self->maps = maps;
    self->count = items->len;
    self->items = (struct tm_module *)(void *)g_array_free(items, FALSE);
    return self;
}

void tm_modules_free(tm_modules *modules)
{
    if (modules == NULL)
        return;
    for (size_t i = 0; i < modules->count; i++)
        tm_elf_free(modules->items[i].elf);
    g_free(modules->items);
    tm_maps_free(modules->maps);
    g_free(modules);
}

static int open_mapped_file(pid_t pid, const struct tm_module *module)
{
    char link[96];
    snprintf(link, sizeof(link),
             "/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", (int)pid,
             module->start_addr, module->first_map_end_addr);
    int fd = open(link, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    /* map_files asks for a capability; the path through the target's root is for everyone, but
     * may be another file by now. Device numbers differ on overlayfs and btrfs, so compare the
     * inode only. */
    g_autofree char *path = g_strdup_printf("/proc/%d/root%s", (int)pid, module->path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd >= 0 && (fstat(fd, &status) != 0 || status.st_ino != module->inode)) {
        close(fd);
        errno = ESTALE;
        return -1;
    }
    return fd;
}

static tm_elf *open_vdso(pid_t pid, const struct tm_module *module, GError **error)
{
    size_t n_bytes = module->end_addr - module->start_addr;
    g_autofree char *buffer = g_malloc(n_bytes);
    if (!tm_memory_read(pid, module->start_addr, buffer, n_bytes, error))
        return NULL;
    g_autoptr(GBytes) image = g_bytes_new_take(g_steal_pointer(&buffer), n_bytes);
    return tm_elf_open_image(image, error);
}

bool tm_module_open(tm_modules *modules, struct tm_module *module, GError **error)
{
    if (module->elf != NULL)
        return true;
    module->tried = true;
    if (modules->opener != NULL) {
        module->elf = modules->opener(modules->opener_arg, module, error);
    } else if (strcmp(module->path, VDSO_NAME) == 0) {
        module->elf = open_vdso(modules->pid, module, error);
    } else {
        int fd = open_mapped_file(modules->pid, module);
        if (fd < 0) {
            tm_inspect_set_errno(error, errno, "cannot open %s of process %d", module->path,
                                 (int)modules->pid);
            return false;
        }
        module->elf = tm_elf_open_fd(fd, error);
    }
    if (module->elf == NULL) {
        g_prefix_error(error, "%s: ", module->path);
        return false;
    }
    module->bias = module->start_addr - module->elf->load_addr;
    return true;
}

struct tm_module *tm_modules_find(const tm_modules *modules, uint64_t addr)
{
    size_t low = 0, high = modules->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (modules->items[middle].end_addr <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == modules->count || modules->items[low].start_addr > addr)
        return NULL;
    return &modules->items[low];
}

struct tm_module *tm_modules_find_name(const tm_modules *modules, const char *pattern)
{
    for (size_t i = 0; i < modules->count; i++) {
        const char *slash = strrchr(modules->items[i].path, '/');
        const char *name = slash != NULL ? slash + 1 : modules->items[i].path;
        if (fnmatch(pattern, name, 0) == 0)
            return &modules->items[i];
    }
    return NULL;
}

struct tm_module *tm_modules_find_exe(const tm_modules *modules)
{
    char link[64];
    struct stat status;
    snprintf(link, sizeof(link), "/proc/%d/exe", (int)modules->pid);
    if (stat(link, &status) != 0)
        return NULL;
    for (size_t i = 0; i < modules->count; i++) {
        if (modules->items[i].inode == status.st_ino)
            return &modules->items[i];
    }
    return NULL;
}

bool tm_module_export_addr(tm_modules *modules, struct tm_module *module, const char *name,
                           uint64_t *ret_addr)
{
    struct tm_symbol symbol;
    if (!tm_module_open(modules, module, NULL) || !tm_elf_find_export(module->elf, name, &symbol))
        return false;
    *ret_addr = module->bias + symbol.value;
    return true;
}
