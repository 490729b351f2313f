// SPDX-License-Identifier: MIT
/*
 * Counts the calls that reach each of PEP 445's allocator domains and the arena allocator. Loaded
 * by probe.py into a patched Python; finds the API by dlsym, with no Python header, as the payload
 * does. Everything is called under the GIL but the hooks of the raw domain, which count atomically.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr);
};

struct arena_allocator {
    void *ctx;
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *ptr, size_t size);
};

enum { DOMAINS = 3 };

struct hook {
    struct allocator below;
    long malloc_count, realloc_count, free_count;
};

static struct hook hooks[DOMAINS];
static struct arena_allocator arena_below;
static long arena_alloc_count, arena_free_count;

static void add_one(long *count)
{
    __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
}

static void *hook_malloc(void *ctx, size_t size)
{
    struct hook *hook = ctx;
    add_one(&hook->malloc_count);
    return hook->below.malloc(hook->below.ctx, size);
}

static void *hook_realloc(void *ctx, void *ptr, size_t new_size)
{
    struct hook *hook = ctx;
    add_one(&hook->realloc_count);
    return hook->below.realloc(hook->below.ctx, ptr, new_size);
}

static void hook_free(void *ctx, void *ptr)
{
    struct hook *hook = ctx;
    add_one(&hook->free_count);
    hook->below.free(hook->below.ctx, ptr);
}

static void *hook_arena_alloc(void *ctx, size_t size)
{
    (void)ctx;
    add_one(&arena_alloc_count);
    return arena_below.alloc(arena_below.ctx, size);
}

static void hook_arena_free(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    add_one(&arena_free_count);
    arena_below.free(arena_below.ctx, ptr, size);
}

static void get(int domain, struct allocator *ret)
{
    void (*function)(int, struct allocator *);
    *(void **)&function = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    function(domain, ret);
}

static void set(int domain, struct allocator *allocator)
{
    void (*function)(int, struct allocator *);
    *(void **)&function = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
    function(domain, allocator);
}

void install(int domain)
{
    get(domain, &hooks[domain].below);
    struct allocator hook = {&hooks[domain], hook_malloc, hook_realloc, hook_free};
    set(domain, &hook);
}

void restore(int domain)
{
    set(domain, &hooks[domain].below);
}

/* Whether the domain is served by these four pointers and no others. */
bool is_served_by_hook(int domain)
{
    struct allocator now;
    get(domain, &now);
    return now.ctx == &hooks[domain] && now.malloc == hook_malloc && now.realloc == hook_realloc &&
           now.free == hook_free;
}

bool is_served_by_original(int domain)
{
    struct allocator now;
    get(domain, &now);
    return memcmp(&now, &hooks[domain].below, sizeof(now)) == 0;
}

long malloc_count(int domain)
{
    return hooks[domain].malloc_count;
}

long realloc_count(int domain)
{
    return hooks[domain].realloc_count;
}

long free_count(int domain)
{
    return hooks[domain].free_count;
}

static void arena_get(struct arena_allocator *ret)
{
    void (*function)(struct arena_allocator *);
    *(void **)&function = dlsym(RTLD_DEFAULT, "PyObject_GetArenaAllocator");
    function(ret);
}

static void arena_set(struct arena_allocator *allocator)
{
    void (*function)(struct arena_allocator *);
    *(void **)&function = dlsym(RTLD_DEFAULT, "PyObject_SetArenaAllocator");
    function(allocator);
}

void arena_install(void)
{
    arena_get(&arena_below);
    struct arena_allocator hook = {NULL, hook_arena_alloc, hook_arena_free};
    arena_set(&hook);
}

void arena_restore(void)
{
    arena_set(&arena_below);
}

bool arena_is_served_by_original(void)
{
    struct arena_allocator now;
    arena_get(&now);
    return memcmp(&now, &arena_below, sizeof(now)) == 0;
}

long arena_allocs(void)
{
    return arena_alloc_count;
}

long arena_frees(void)
{
    return arena_free_count;
}
