// SPDX-License-Identifier: MIT
/* Where libc's functions lie in the target. Reads files only; before anything is stopped. */
#include "injector/inject_libc.h"

#include <dlfcn.h>
#include <string.h>

#include "injector/arch.h"
#include "injector/errors.h"

#define MIN_UNWIND_BYTES 4096u

/* A module is libc by what it exports, whatever its file is called. */
static struct tm_module *find_libc(tm_modules *modules, bool *ret_musl)
{
    static const char *const names[] = {"libc.so.6", "libc-2.*.so", "ld-musl-*", "libc.musl-*",
                                        "libc.so"};
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        struct tm_module *module = tm_modules_find_name(modules, names[i]);
        uint64_t addr;
        if (module == NULL || !tm_module_export_addr(modules, module, "munmap", &addr))
            continue;
        *ret_musl = !tm_module_export_addr(modules, module, "gnu_get_libc_version", &addr);
        return module;
    }
    return NULL;
}

static struct tm_module *find_ldso(tm_modules *modules)
{
    static const char *const names[] = {"ld-linux*", "ld-2.*.so", "ld.so*", "ld-musl-*"};
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        struct tm_module *module = tm_modules_find_name(modules, names[i]);
        if (module != NULL)
            return module;
    }
    return NULL;
}

/* Before glibc 2.34 threads and dlopen lay in libraries of their own. */
static bool find_function(tm_modules *modules, const struct tm_inject_libc *self, const char *name,
                          uint64_t *ret_addr)
{
    static const char *const others[] = {"libpthread.so.0", "libpthread-2.*.so", "libdl.so.2",
                                         "libdl-2.*.so"};
    if (tm_module_export_addr(modules, self->libc, name, ret_addr))
        return true;
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        struct tm_module *module = tm_modules_find_name(modules, others[i]);
        if (module != NULL && tm_module_export_addr(modules, module, name, ret_addr))
            return true;
    }
    return false;
}

/* Debian's musl has them for three of its own functions. */
static bool has_unwind_tables(const struct tm_inject_libc *self)
{
    GElf_Shdr header;
    const Elf_Data *data = tm_elf_section(self->libc->elf, ".eh_frame", &header);
    return data != NULL && data->d_size >= MIN_UNWIND_BYTES;
}

static bool find_code(const struct tm_inject_libc *self, const uint8_t *code, size_t n_bytes,
                      uint64_t *ret_addr)
{
    if (!tm_elf_find_code(self->libc->elf, code, n_bytes, ret_addr))
        return false;
    *ret_addr += self->libc->bias;
    return true;
}

static bool find_functions(tm_modules *modules, struct tm_inject_libc *self, GError **error)
{
    const struct {
        const char *name;
        uint64_t *ret;
    } functions[] = {
        {"pthread_create", &self->pthread_create_addr},
        {"pthread_attr_init", &self->attr_init_addr},
        {"pthread_attr_setdetachstate", &self->attr_setdetachstate_addr},
        {"pthread_attr_setstacksize", &self->attr_setstacksize_addr},
        {"dlopen", &self->dlopen_addr},
        {"dlsym", &self->dlsym_addr},
        {"dlclose", &self->dlclose_addr},
        {"dlerror", &self->dlerror_addr},
        {"munmap", &self->munmap_addr},
        {"__errno_location", &self->errno_location_addr},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(functions); i++) {
        if (!find_function(modules, self, functions[i].name, functions[i].ret)) {
            g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_LIBC,
                        "process %d has no %s in its %s: it was linked without threads or dlopen",
                        (int)modules->pid, functions[i].name, self->libc->path);
            return false;
        }
    }
    if (!find_function(modules, self, "__register_atfork", &self->register_atfork_addr) ||
        !find_function(modules, self, "__cxa_finalize", &self->finalize_addr))
        self->register_atfork_addr = self->finalize_addr = 0;
    return true;
}

static void set_no_libc(const tm_modules *modules, GError **error)
{
    const struct tm_module *exe = tm_modules_find_exe(modules);
    if (exe != NULL && exe->elf != NULL && exe->elf->has_interp)
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_DIED,
                    "process %d has no libc that is known: it has only begun to run this program, "
                    "or was built for another; try again",
                    (int)modules->pid);
    else
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_STATIC,
                    "process %d is statically linked (no libc is mapped in it), so that nothing "
                    "can be loaded into it; use a dynamically linked Python",
                    (int)modules->pid);
}

bool tm_inject_libc_find(tm_modules *modules, struct tm_inject_libc *ret, GError **error)
{
    struct tm_inject_libc self = {.dlopen_flags = RTLD_NOW | RTLD_LOCAL};
    self.libc = find_libc(modules, &self.is_musl);
    self.ldso = find_ldso(modules);
    /* musl is its own dynamic linker, under whichever of its names it was mapped. */
    if (self.is_musl)
        self.ldso = self.libc;
    if (self.libc == NULL || self.ldso == NULL) {
        set_no_libc(modules, error);
        return false;
    }
    if (!find_functions(modules, &self, error))
        return false;
    if (self.is_musl && !has_unwind_tables(&self)) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_LIBC,
                    "%s of process %d has no unwind tables, without which no point can be found "
                    "at which code can be loaded safely; use a musl that was built with "
                    "-fasynchronous-unwind-tables, or a Python for glibc",
                    self.libc->path, (int)modules->pid);
        return false;
    }
    if (!find_code(&self, tm_arch_restorer_code, sizeof(tm_arch_restorer_code),
                   &self.restorer_addr) ||
        !find_code(&self, tm_arch_syscall_code, sizeof(tm_arch_syscall_code), &self.syscall_addr)) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_LIBC,
                    "the code of %s in process %d is not one this program knows", self.libc->path,
                    (int)modules->pid);
        return false;
    }
    /* setuid and pthread_cancel signal every thread and wait for it: 32 and 33 on glibc, and 34
     * too on musl. A thread that blocks them would hang the program. */
    self.thread_signal_mask = ~(1ull << (32 - 1) | 1ull << (33 - 1));
    if (self.is_musl)
        self.thread_signal_mask &= ~(1ull << (34 - 1));
    *ret = self;
    return true;
}
