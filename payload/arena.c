// SPDX-License-Identifier: MIT
#include "payload/arena.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "payload/mem.h"
#include "payload/pyapi.h"

enum { FIRST_SLOTS = 512 };

/* PyObjectArenaAllocator, since 3.4 (Include/objimpl.h). */
struct arena_allocator {
    void *ctx;
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *arena, size_t size);
};

static void (*get_allocator)(struct arena_allocator *);
static void (*set_allocator)(struct arena_allocator *);

static struct arena_allocator below;
static bool installed;
static pid_t owner;               /* of the table: a forked child does not inherit it */
static _Atomic uint32_t counting; /* and who counts: a forked child does not */
static _Atomic uint64_t total_bytes;

/* Known arenas: open addressing, 0 is free. Interpreters with a GIL of their own come here too. */
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static uintptr_t *table;
static uint32_t slots, used; /* a power of two, at most half used */

static uint32_t home(uintptr_t arena, uint32_t n)
{
    return (uint32_t)(arena * 0x9e3779b97f4a7c15ull >> 40) & (n - 1);
}

static void insert(uintptr_t *into, uint32_t n, uintptr_t arena)
{
    uint32_t i = home(arena, n);
    while (into[i] != 0)
        i = (i + 1) & (n - 1);
    into[i] = arena;
}

static bool grow(void)
{
    uint32_t n = slots ? slots * 2 : FIRST_SLOTS;
    uintptr_t *grown = tm_mem_map(n * sizeof(*grown));
    if (grown == NULL)
        return false;
    for (uint32_t i = 0; i < slots; i++)
        if (table[i] != 0)
            insert(grown, n, table[i]);
    tm_mem_unmap(table, slots * sizeof(*table));
    table = grown;
    slots = n;
    return true;
}

static bool remember(uintptr_t arena)
{
    if ((used + 1) * 2 > slots && !grow())
        return false;
    insert(table, slots, arena);
    used++;
    return true;
}

/* Takes an arena out and closes the gap: what follows moves up where its home allows it. */
static bool forget(uintptr_t arena)
{
    if (slots == 0)
        return false;
    uint32_t i = home(arena, slots), mask = slots - 1;
    while (table[i] != arena) {
        if (table[i] == 0)
            return false;
        i = (i + 1) & mask;
    }
    for (uint32_t k = (i + 1) & mask; table[k] != 0; k = (k + 1) & mask) {
        if (((k - home(table[k], slots)) & mask) >= ((k - i) & mask)) {
            table[i] = table[k];
            i = k;
        }
    }
    table[i] = 0;
    used--;
    return true;
}

static bool counts_here(void)
{
    return atomic_load_explicit(&counting, memory_order_relaxed) != 0 && owner == getpid();
}

static void *hook_alloc(void *ctx, size_t size)
{
    void *arena = below.alloc(ctx, size);
    int saved_errno = errno;
    if (arena != NULL && counts_here()) {
        pthread_mutex_lock(&table_lock);
        if (remember((uintptr_t)arena))
            total_bytes += size;
        pthread_mutex_unlock(&table_lock);
    }
    errno = saved_errno;
    return arena;
}

static void hook_free(void *ctx, void *arena, size_t size)
{
    if (counts_here()) {
        pthread_mutex_lock(&table_lock);
        if (forget((uintptr_t)arena))
            total_bytes -= size;
        pthread_mutex_unlock(&table_lock);
    }
    below.free(ctx, arena, size);
}

bool tm_arena_is_supported(void)
{
    void *get = tm_pyapi_find("PyObject_GetArenaAllocator");
    void *set = tm_pyapi_find("PyObject_SetArenaAllocator");
    memcpy(&get_allocator, &get, sizeof(get));
    memcpy(&set_allocator, &set, sizeof(set));
    return get != NULL && set != NULL;
}

void tm_arena_reset(void)
{
    if (owner != getpid()) {
        pthread_mutex_init(&table_lock, NULL);
        table = NULL;
        slots = used = 0;
        owner = getpid();
    }
    pthread_mutex_lock(&table_lock);
    tm_mem_unmap(table, slots * sizeof(*table));
    table = NULL;
    slots = used = 0;
    total_bytes = 0;
    pthread_mutex_unlock(&table_lock);
}

static bool is_topmost(void)
{
    struct arena_allocator top;
    get_allocator(&top);
    return top.alloc == hook_alloc && top.free == hook_free;
}

bool tm_arena_start(void)
{
    if (!tm_arena_is_supported())
        return false;
    tm_arena_reset();
    if (!installed) {
        get_allocator(&below);
        struct arena_allocator ours = {below.ctx, hook_alloc, hook_free};
        set_allocator(&ours);
        installed = true;
    }
    atomic_store(&counting, 1);
    return true;
}

bool tm_arena_stop(void)
{
    atomic_store(&counting, 0);
    if (!installed)
        return true;
    tm_arena_reset();
    if (!is_topmost())
        return false;
    set_allocator(&below);
    installed = false;
    return true;
}

uint64_t tm_arena_bytes(void)
{
    return counts_here() ? atomic_load(&total_bytes) : 0;
}
