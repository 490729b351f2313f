// SPDX-License-Identifier: MIT
/*
 * Whether the dynamic loader has been at work since: what the hooks ask before
 * they trust an address that they know. The counters that dl_iterate_phdr gives
 * under the loader's lock are read where they lie, in ld.so's _rtld_global; the
 * place is found by their values.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TM_NATIVE_LOADER_WORDS = 8 };

struct tm_native_loader {
    const uint32_t *loaded; /* modules there are; NULL: not found, tm_native_loader_stamp is 0 */
    /* Modules that ever came. Any of these may be it: the others hold the same number by chance,
     * and where they change nothing is lost but time. */
    const uint64_t *adds[TM_NATIVE_LOADER_WORDS];
    uint32_t n_adds;
};
extern struct tm_native_loader tm_native_loader;

/* Finds the counters, once. Takes the loader's lock. */
void tm_native_loader_setup(void);

/* Differs from every earlier one if a module came or went meanwhile. Any thread, no lock. */
__attribute__((always_inline)) static inline uint64_t tm_native_loader_stamp(void)
{
    const struct tm_native_loader *loader = &tm_native_loader;
    if (__builtin_expect(loader->loaded == NULL, 0))
        return 0;
    uint64_t stamp = __atomic_load_n(loader->loaded, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < loader->n_adds; i++)
        stamp = stamp * 0x9e3779b97f4a7c15ull + __atomic_load_n(loader->adds[i], __ATOMIC_RELAXED);
    return stamp;
}
