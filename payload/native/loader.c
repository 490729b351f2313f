// SPDX-License-Identifier: MIT
#include "payload/native/loader.h"

#include <dlfcn.h>
#include <link.h>
#include <stddef.h>
#include <string.h>

struct tm_native_loader tm_native_loader;

struct counters {
    uint64_t adds, loaded;
    bool known;
};

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
    struct counters *counters = data;
    if (size >= offsetof(struct dl_phdr_info, dlpi_subs) + sizeof(info->dlpi_subs))
        *counters = (struct counters){info->dlpi_adds, info->dlpi_adds - info->dlpi_subs, true};
    return 1;
}

static struct counters ask(void)
{
    struct counters counters = {0, 0, false};
    dl_iterate_phdr(visit, &counters);
    return counters;
}

/*
 * glibc, sysdeps/generic/ldsodefs.h: struct rtld_global begins with the first
 * namespace, { struct link_map *_ns_loaded; unsigned int _ns_nloaded; ... }, and
 * has `unsigned long long _dl_load_adds` further down.
 */
static bool find(const struct counters *now, struct tm_native_loader *ret)
{
    /* Looked up, since musl has none, and its name in glibc got a new version in 2.34. */
    int (*symbol_at)(const void *, Dl_info *, void **, int) = NULL;
    *(void **)&symbol_at = dlsym(RTLD_DEFAULT, "dladdr1");
    Dl_info where;
    const ElfW(Sym) *symbol = NULL;
    const struct r_debug *debug = dlsym(RTLD_DEFAULT, "_r_debug");
    const char *global = dlsym(RTLD_DEFAULT, "_rtld_global");
    if (debug == NULL || global == NULL || symbol_at == NULL ||
        symbol_at(global, &where, (void **)&symbol, RTLD_DL_SYMENT) == 0 || symbol == NULL ||
        where.dli_saddr != (void *)global)
        return false;
    const struct link_map *first;
    const uint32_t *loaded = (const uint32_t *)(global + sizeof(first));
    memcpy(&first, global, sizeof(first));
    if (first != debug->r_map || *loaded != now->loaded)
        return false;
    *ret = (struct tm_native_loader){.loaded = loaded};
    for (size_t at = 2 * sizeof(uint64_t); at + sizeof(uint64_t) <= symbol->st_size;
         at += sizeof(uint64_t)) {
        const uint64_t *word = (const uint64_t *)(global + at);
        if (*word != now->adds)
            continue;
        if (ret->n_adds == TM_NATIVE_LOADER_WORDS)
            return false;
        ret->adds[ret->n_adds++] = word;
    }
    return ret->n_adds > 0;
}

void tm_native_loader_setup(void)
{
    enum { ATTEMPTS = 4 };
    for (int i = 0; i < ATTEMPTS && tm_native_loader.loaded == NULL; i++) {
        struct counters before = ask(), after;
        struct tm_native_loader found;
        bool ok = before.known && find(&before, &found);
        after = ask();
        /* What was found while the loader was at work may be something else. */
        if (ok && after.adds == before.adds && after.loaded == before.loaded)
            tm_native_loader = found;
    }
}
