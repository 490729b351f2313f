// SPDX-License-Identifier: MIT
/* The ELF files that are mapped in a process. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "inspect/elf_file.h"
#include "inspect/maps.h"

struct tm_module {
    const char *path; /* as the target sees it; "[vdso]" for the vDSO. Borrowed from the maps. */
    bool deleted;
    uint64_t start_addr; /* first byte of the first mapping */
    uint64_t end_addr;   /* past the last */
    uint64_t inode;
    uint64_t first_map_end_addr;
    bool tried;    /* opening was tried */
    tm_elf *elf;   /* NULL until tm_module_open, and where that fails */
    uint64_t bias; /* add to a value of the file to get an address; valid with elf */
};

/* Opens the file of a module that is not one of a live process. NULL and *error on failure. */
typedef tm_elf *(*tm_module_opener)(void *arg, const struct tm_module *module, GError **error);

typedef struct tm_modules {
    pid_t pid;               /* 0: not of a live process; tm_process_living of it else */
    tm_module_opener opener; /* NULL: through /proc/PID */
    void *opener_arg;
    tm_maps *maps;
    struct tm_module *items; /* by ascending address */
    size_t count;
} tm_modules;

/* Reads the maps and groups them; opens nothing. */
tm_modules *tm_modules_read(pid_t pid, GError **error);
/* The same from a table; takes it over. */
tm_modules *tm_modules_from_maps(tm_maps *maps);
void tm_modules_free(tm_modules *modules);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_modules, tm_modules_free)

/* Opens the very file that is mapped, deleted or in another mount namespace as it may be:
 * through /proc/PID/map_files, else through /proc/PID/root with its inode compared. The vDSO is
 * read from memory. Idempotent. */
bool tm_module_open(tm_modules *modules, struct tm_module *module, GError **error);
/* The module that holds addr, or NULL. Borrowed. */
struct tm_module *tm_modules_find(const tm_modules *modules, uint64_t addr);
/* The first module whose file name (without folders) matches the shell pattern, or NULL. */
struct tm_module *tm_modules_find_name(const tm_modules *modules, const char *pattern);
/* The executable itself: the module that /proc/PID/exe names, or NULL. */
struct tm_module *tm_modules_find_exe(const tm_modules *modules);
/* The address in the target of an exported symbol of module. Opens the module. */
bool tm_module_export_addr(tm_modules *modules, struct tm_module *module, const char *name,
                           uint64_t *ret_addr);
