// SPDX-License-Identifier: MIT
/* Where the libc functions that an injection needs lie in the target: glibc old and new, musl. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "inspect/module.h"

struct tm_inject_libc {
    struct tm_module *libc; /* borrowed from the modules */
    struct tm_module *ldso; /* the dynamic linker; the same as libc on musl */
    bool is_musl;
    uint64_t restorer_addr;
    uint64_t syscall_addr; /* syscall; ret */
    uint64_t pthread_create_addr;
    uint64_t attr_init_addr;
    uint64_t attr_setdetachstate_addr;
    uint64_t attr_setstacksize_addr;
    uint64_t dlopen_addr;
    uint64_t dlsym_addr;
    uint64_t dlclose_addr;
    uint64_t dlerror_addr;
    uint64_t munmap_addr;
    uint64_t errno_location_addr;
    uint64_t register_atfork_addr; /* 0: there is none, as on musl */
    uint64_t finalize_addr;        /* __cxa_finalize; 0: the same */
    int dlopen_flags;
    uint64_t thread_signal_mask; /* every signal but those that libc sends to its threads */
};

/* TM_ATTACH_ERROR_STATIC where there is no dynamic linker, _DIED where it has not mapped a libc
 * yet, _LIBC where a function is missing. */
bool tm_inject_libc_find(tm_modules *modules, struct tm_inject_libc *ret, GError **error);
