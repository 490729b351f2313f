// SPDX-License-Identifier: MIT
/*
 * What native frames cost the way that other memory profilers take them: every
 * allocation of Python's obj and mem domains unwinds 16 frames by libunwind,
 * with its cache for each thread, and throws them away. Loaded into a process of
 * the bench by ctypes; never part of the product.
 */
#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include <dlfcn.h>
#include <stddef.h>

enum { DEPTH = 16 };

struct allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t n, size_t size);
    void *(*realloc)(void *ctx, void *old, size_t size);
    void (*free)(void *ctx, void *block);
};

static struct allocator below[3];
static volatile size_t frames; /* keeps the work */

static inline __attribute__((always_inline)) void *unwind(void *block)
{
    void *pcs[DEPTH];
    frames += (size_t)unw_backtrace(pcs, DEPTH);
    return block;
}

static void *hook_malloc(void *ctx, size_t size)
{
    const struct allocator *next = ctx;
    return unwind(next->malloc(next->ctx, size));
}

static void *hook_calloc(void *ctx, size_t n, size_t size)
{
    const struct allocator *next = ctx;
    return unwind(next->calloc(next->ctx, n, size));
}

static void *hook_realloc(void *ctx, void *old, size_t size)
{
    const struct allocator *next = ctx;
    return unwind(next->realloc(next->ctx, old, size));
}

static void hook_free(void *ctx, void *block)
{
    const struct allocator *next = ctx;
    next->free(next->ctx, block);
}

/* GIL. */
__attribute__((visibility("default"))) int tm_bench_unwind(void);
int tm_bench_unwind(void)
{
    void (*get)(int, struct allocator *), (*set)(int, struct allocator *);
    *(void **)&get = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    *(void **)&set = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
    if (get == NULL || set == NULL)
        return -1;
    unw_set_caching_policy(unw_local_addr_space, UNW_CACHE_PER_THREAD);
    for (int domain = 1; domain < 3; domain++) {
        struct allocator ours = {&below[domain], hook_malloc, hook_calloc, hook_realloc, hook_free};
        get(domain, &below[domain]);
        set(domain, &ours);
    }
    return 0;
}
