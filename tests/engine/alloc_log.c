// SPDX-License-Identifier: MIT
/*
 * An independent log of a Python's allocations: a layer below the engine's
 * hooks that keeps every live block with its size in a hash table. The tests
 * compare the engine's totals and traces with it. Loaded by ctypes.PyDLL into
 * the Python under test; also makes raw allocations on threads without the GIL.
 *
 * Only the outermost of nested calls counts, as in the engine: what an obj
 * allocator takes from the raw one is the same block.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { DOMAINS = 3 };

struct allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t n, size_t size);
    void *(*realloc)(void *ctx, void *ptr, size_t size);
    void (*free)(void *ctx, void *ptr);
};

struct block {
    uint64_t addr; /* 0: empty, 1: deleted */
    uint64_t size_bytes;
    uint64_t domain;
};

struct totals {
    uint64_t bytes, blocks, calls;
};

/* struct tm_totals of payload/tracer.h. */
struct engine_totals {
    uint64_t fields[6];
};

struct both {
    struct engine_totals engine;
    struct totals log;
};

void log_install(void);
void log_start(void);
void log_stop(void);
struct totals log_totals(void);
void log_compare(struct engine_totals (*totals)(void), struct both *ret);
int log_with_engine(int (*enable)(const void *, char *, size_t), const void *options, char *message,
                    size_t message_bytes);
uint64_t log_copy(struct block *ret, uint64_t capacity);
void *raw_churn_start(unsigned seed);
void raw_churn_stop(void *churn);
void raw_churn_free(void *churn);

static struct allocator below[DOMAINS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *table; /* lock */
static uint64_t slots = 1 << 22, used;
static struct totals totals;
static bool logging;
static _Thread_local int depth;

static uint64_t start_of(uint64_t addr)
{
    return (addr * 0x9e3779b97f4a7c15ull >> 20) & (slots - 1);
}

static struct block *find(uint64_t addr)
{
    for (uint64_t i = start_of(addr);; i = (i + 1) & (slots - 1)) {
        if (table[i].addr == addr)
            return &table[i];
        if (table[i].addr == 0)
            return NULL;
    }
}

/* Leaves the deleted places behind: a long run uses ever new addresses. lock. */
static void rebuild(void)
{
    struct block *old = table;
    size_t n_bytes = slots * sizeof(*table);
    table = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    used = 0;
    for (uint64_t k = 0; k < slots; k++) {
        if (old[k].addr <= 1)
            continue;
        uint64_t i = start_of(old[k].addr);
        while (table[i].addr != 0)
            i = (i + 1) & (slots - 1);
        table[i] = old[k];
        used++;
    }
    munmap(old, n_bytes);
    if (used > slots / 2) {
        fprintf(stderr, "alloc_log: the table is full\n");
        abort();
    }
}

static void add(void *ptr, size_t size, int domain)
{
    pthread_mutex_lock(&lock);
    if (logging) {
        uint64_t i = start_of((uint64_t)ptr);
        while (table[i].addr > 1)
            i = (i + 1) & (slots - 1);
        used += table[i].addr == 0;
        table[i] = (struct block){(uint64_t)ptr, size, (uint64_t)domain};
        if (used > slots * 3 / 4)
            rebuild();
        totals.bytes += size;
        totals.blocks++;
        totals.calls++;
    }
    pthread_mutex_unlock(&lock);
}

/* Takes a block out; .addr 0: it was not known. */
static struct block take(void *ptr)
{
    struct block taken = {0};
    pthread_mutex_lock(&lock);
    struct block *block = logging ? find((uint64_t)ptr) : NULL;
    if (block != NULL) {
        taken = *block;
        totals.bytes -= block->size_bytes;
        totals.blocks--;
        block->addr = 1;
    }
    pthread_mutex_unlock(&lock);
    return taken;
}

static int domain_of(void *ctx)
{
    return (int)(intptr_t)ctx;
}

static void *log_malloc(void *ctx, size_t size)
{
    int domain = domain_of(ctx);
    depth++;
    void *ptr = below[domain].malloc(below[domain].ctx, size);
    depth--;
    if (ptr != NULL && depth == 0)
        add(ptr, size, domain);
    return ptr;
}

static void *log_calloc(void *ctx, size_t n, size_t size)
{
    int domain = domain_of(ctx);
    depth++;
    void *ptr = below[domain].calloc(below[domain].ctx, n, size);
    depth--;
    if (ptr != NULL && depth == 0)
        add(ptr, n * size, domain);
    return ptr;
}

static void *log_realloc(void *ctx, void *old, size_t size)
{
    int domain = domain_of(ctx);
    struct block was = {0};
    if (old != NULL && depth == 0)
        was = take(old);
    depth++;
    void *ptr = below[domain].realloc(below[domain].ctx, old, size);
    depth--;
    if (depth == 0) {
        if (ptr != NULL)
            add(ptr, size, domain);
        else if (was.addr != 0)
            add(old, was.size_bytes, (int)was.domain);
    }
    return ptr;
}

static void log_free(void *ctx, void *ptr)
{
    int domain = domain_of(ctx);
    if (ptr != NULL && depth == 0)
        take(ptr);
    depth++;
    below[domain].free(below[domain].ctx, ptr);
    depth--;
}

/* PyMemAllocator, which patched Pythons and 3.4 have: without calloc. */
struct four_pointers {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*realloc)(void *ctx, void *ptr, size_t size);
    void (*free)(void *ctx, void *ptr);
};

static void (*get_four)(int, struct four_pointers *), (*set_four)(int, struct four_pointers *);

static void get_old(int domain, struct allocator *ret)
{
    struct four_pointers four;
    get_four(domain, &four);
    *ret = (struct allocator){four.ctx, four.malloc, NULL, four.realloc, four.free};
}

static void set_old(int domain, struct allocator *ours)
{
    struct four_pointers four = {ours->ctx, ours->malloc, ours->realloc, ours->free};
    set_four(domain, &four);
}

/* GIL. Call it before the engine is enabled. */
void log_install(void)
{
    void (*get)(int, struct allocator *), (*set)(int, struct allocator *);
    *(void **)&get = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    *(void **)&set = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
    if (dlsym(RTLD_DEFAULT, "PyMem_RawCalloc") == NULL) {
        *(void **)&get_four = (void *)get;
        *(void **)&set_four = (void *)set;
        get = get_old;
        set = set_old;
    }
    table = mmap(NULL, slots * sizeof(*table), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int domain = 0; domain < DOMAINS; domain++) {
        struct allocator ours = {(void *)(intptr_t)domain, log_malloc, log_calloc, log_realloc,
                                 log_free};
        get(domain, &below[domain]);
        set(domain, &ours);
    }
}

void log_start(void)
{
    pthread_mutex_lock(&lock);
    logging = true;
    pthread_mutex_unlock(&lock);
}

/* GIL. Both begin at the same moment: nothing is allocated in between. */
int log_with_engine(int (*enable)(const void *, char *, size_t), const void *options, char *message,
                    size_t message_bytes)
{
    int status = enable(options, message, message_bytes);
    log_start();
    return status;
}

/* GIL; no thread makes raw allocations. */
void log_compare(struct engine_totals (*engine_totals)(void), struct both *ret)
{
    *ret = (struct both){engine_totals(), log_totals()};
}

void log_stop(void)
{
    pthread_mutex_lock(&lock);
    logging = false;
    pthread_mutex_unlock(&lock);
}

struct totals log_totals(void)
{
    pthread_mutex_lock(&lock);
    struct totals copy = totals;
    pthread_mutex_unlock(&lock);
    return copy;
}

uint64_t log_copy(struct block *ret, uint64_t capacity)
{
    uint64_t n = 0;
    pthread_mutex_lock(&lock);
    for (uint64_t i = 0; i < slots; i++)
        if (table[i].addr > 1 && n < capacity)
            ret[n++] = table[i];
    pthread_mutex_unlock(&lock);
    return n;
}

/* ---- raw calls by a thread that Python does not know ---- */

enum { HELD = 512 };

struct churn {
    pthread_t thread;
    _Atomic bool stop;
    uint64_t random;
    void *held[HELD];
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
};

static uint64_t draw(struct churn *churn)
{
    churn->random = churn->random * 6364136223846793005ull + 1442695040888963407ull;
    return churn->random >> 33;
}

static size_t draw_size(struct churn *churn)
{
    uint64_t what = draw(churn) % 1000;
    if (what == 0)
        return (16u << 20) - 2 + draw(churn) % 4; /* around the size that an entry can hold */
    if (what < 20)
        return 0;
    return draw(churn) % (what < 100 ? 200000 : 600);
}

static void *churn_main(void *arg)
{
    struct churn *churn = arg;
    while (!atomic_load(&churn->stop)) {
        void **place = &churn->held[draw(churn) % HELD];
        uint64_t what = draw(churn) % 8;
        size_t size = draw_size(churn);
        if (what < 3 && *place != NULL) {
            void *grown = churn->realloc(*place, size);
            if (grown != NULL)
                *place = grown;
        } else if (what == 3 && *place != NULL) {
            /* More than there can be: fails and leaves the block as it is. */
            if (churn->realloc(*place, (size_t)1 << 62) != NULL)
                abort();
        } else {
            churn->free(*place);
            *place =
                what & 1 || churn->calloc == NULL ? churn->malloc(size) : churn->calloc(1, size);
        }
    }
    return NULL;
}

void *raw_churn_start(unsigned seed)
{
    struct churn *churn = calloc(1, sizeof(*churn));
    churn->random = seed * 77777u + 1;
    *(void **)&churn->malloc = dlsym(RTLD_DEFAULT, "PyMem_RawMalloc");
    *(void **)&churn->calloc = dlsym(RTLD_DEFAULT, "PyMem_RawCalloc");
    *(void **)&churn->realloc = dlsym(RTLD_DEFAULT, "PyMem_RawRealloc");
    *(void **)&churn->free = dlsym(RTLD_DEFAULT, "PyMem_RawFree");
    if (pthread_create(&churn->thread, NULL, churn_main, churn) != 0)
        abort();
    return churn;
}

/* Its blocks live on until raw_churn_free. Joins: call it without the GIL. */
void raw_churn_stop(void *arg)
{
    struct churn *churn = arg;
    atomic_store(&churn->stop, true);
    pthread_join(churn->thread, NULL);
}

void raw_churn_free(void *arg)
{
    struct churn *churn = arg;
    for (int i = 0; i < HELD; i++)
        churn->free(churn->held[i]);
    free(churn);
}
