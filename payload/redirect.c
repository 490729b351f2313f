// SPDX-License-Identifier: MIT
#include "payload/redirect.h"

#include <stdio.h>
#include <string.h>

#define PATCH_HINT "; build it with patches/2.7/pep445.patch"

static struct tm_py_allocator current; /* where the entries lead to */
static char problem[256];

const char *tm_redirect_problem(void)
{
    return problem;
}

#if defined(__x86_64__)

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "payload/bystanders.h"
#include "payload/x86.h"

enum {
    JUMP_BYTES = 5,      /* jmp rel32 */
    FAR_JUMP_BYTES = 14, /* jmp *0(%rip), and the address */
    SLOT_BYTES = 128,    /* of a function, in our page: the way in, the way back */
    BACK_AT = 32,        /* the way back in it */
    PAGE_BYTES = 4096,
    PLACE_STEP = 1 << 18, /* where our page is tried, down and up from the library */
    PLACE_TRIES = 4096,   /* 1 GiB */
};

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define MEMBARRIER_SYNC_CORE (1 << 5)
#define MEMBARRIER_REGISTER_SYNC_CORE (1 << 6)

/* ---- the functions that entries lead to ---- */

static void *enter_malloc(size_t size)
{
    return current.malloc(current.ctx, size);
}

static void *enter_realloc(void *old, size_t size)
{
    return current.realloc(current.ctx, old, size);
}

static void enter_free(void *block)
{
    current.free(current.ctx, block);
}

static struct function {
    const char *name;
    void *ours;
    uint8_t *entry;
    size_t bytes;       /* of the whole function */
    size_t moved_bytes; /* of its first instructions */
    void *way_back;     /* these instructions, then the rest */
    size_t back_bytes;
    uint64_t original; /* the entry's first 8 bytes */
    uint64_t redirected;
} functions[] = {
    {.name = "PyObject_Malloc", .ours = (void *)enter_malloc},
    {.name = "PyObject_Realloc", .ours = (void *)enter_realloc},
    {.name = "PyObject_Free", .ours = (void *)enter_free},
};
enum { MALLOC, REALLOC, FREE, FUNCTIONS };

static uint8_t *page;  /* NULL: not prepared */
static bool installed; /* entries are changed */
static bool refused;   /* they are not, although an allocator was set: see `problem` */
static bool stuck;     /* they could not be changed back: our page must stay */

/* ---- the functions below: the originals ---- */

static void *original_malloc(void *ctx, size_t size)
{
    (void)ctx;
    return ((void *(*)(size_t))functions[MALLOC].way_back)(size);
}

static void *original_realloc(void *ctx, void *old, size_t size)
{
    (void)ctx;
    return ((void *(*)(void *, size_t))functions[REALLOC].way_back)(old, size);
}

static void original_free(void *ctx, void *block)
{
    (void)ctx;
    ((void (*)(void *))functions[FREE].way_back)(block);
}

static const struct tm_py_allocator original = {
    .malloc = original_malloc, .realloc = original_realloc, .free = original_free};

/* The same under other names: they tell that the entries are not ours to change. */
static void *lost_malloc(void *ctx, size_t size)
{
    return original_malloc(ctx, size);
}

static void *lost_realloc(void *ctx, void *old, size_t size)
{
    return original_realloc(ctx, old, size);
}

static void lost_free(void *ctx, void *block)
{
    original_free(ctx, block);
}

static const struct tm_py_allocator lost = {
    .malloc = lost_malloc, .realloc = lost_realloc, .free = lost_free};

/* ---- the domains that are not there ---- */

static void *no_malloc(void *ctx, size_t size)
{
    (void)ctx, (void)size;
    return NULL;
}

static void *no_realloc(void *ctx, void *old, size_t size)
{
    (void)ctx, (void)old, (void)size;
    return NULL;
}

static void no_free(void *ctx, void *block)
{
    (void)ctx, (void)block;
}

static const struct tm_py_allocator empty_domain = {
    .malloc = no_malloc, .realloc = no_realloc, .free = no_free};
static struct tm_py_allocator set_for[TM_PY_DOMAINS]; /* by tm_redirect_set; to be given back */

/* ---- preparing ---- */

static bool find_function(struct function *f, char *message, size_t message_bytes)
{
    /* By name: other C libraries have none, and its version differs from libc to libc. */
    int (*find_symbol)(const void *, Dl_info *, void **, int) = NULL;
    void *symbol_function = dlsym(RTLD_DEFAULT, "dladdr1"), *entry = tm_pyapi_find(f->name);
    memcpy(&find_symbol, &symbol_function, sizeof(find_symbol));
    Dl_info info, python_info;
    void *found = NULL;
    if (entry == NULL || find_symbol == NULL ||
        find_symbol(entry, &info, &found, RTLD_DL_SYMENT) == 0 || found == NULL ||
        dladdr(tm_pyapi_find("Py_GetVersion"), &python_info) == 0) {
        snprintf(message, message_bytes, "Python %s does not tell where its %s begins and ends%s",
                 tm_py.version, f->name, PATCH_HINT);
        return false;
    }
    f->entry = entry;
    f->bytes = ((const ElfW(Sym) *)found)->st_size;
    if (info.dli_saddr == entry && info.dli_fbase == python_info.dli_fbase &&
        f->bytes >= 2 * JUMP_BYTES && (uintptr_t)entry % sizeof(uint64_t) == 0)
        return true;
    snprintf(message, message_bytes, "%s of Python %s is not where it can be redirected%s", f->name,
             tm_py.version, PATCH_HINT);
    return false;
}

/* A page that a jmp rel32 of the library's reaches, and that reaches the library. */
static uint8_t *map_near(const uint8_t *code)
{
    uintptr_t start = (uintptr_t)code & ~(uintptr_t)(PLACE_STEP - 1);
    for (int i = 1; i <= 2 * PLACE_TRIES; i++) {
        uintptr_t distance = (uintptr_t)((i + 1) / 2) * PLACE_STEP;
        void *wanted = (void *)(i & 1 ? start - distance : start + distance);
        if (i & 1 && distance >= start)
            continue;
        void *got = mmap(wanted, PAGE_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (got == wanted)
            return got;
        if (got != MAP_FAILED)
            munmap(got, PAGE_BYTES); /* a kernel before 4.17 took it for a hint */
    }
    return NULL;
}

static void put_far_jump(uint8_t *at, const void *target)
{
    static const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0};
    memcpy(at, jump, sizeof(jump));
    memcpy(at + sizeof(jump), &target, sizeof(target));
}

/* ---- */

struct text {
    const uint8_t *addr; /* of which the bounds are wanted */
    size_t n_bytes;      /* from addr on */
    size_t before_bytes;
};

static int find_text(struct dl_phdr_info *info, size_t info_bytes, void *data)
{
    struct text *text = data;
    (void)info_bytes;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uint64_t offset = (uintptr_t)text->addr - (info->dlpi_addr + segment->p_vaddr);
        if (segment->p_type != PT_LOAD || (segment->p_flags & PF_X) == 0 ||
            offset >= segment->p_filesz)
            continue;
        text->before_bytes = offset;
        text->n_bytes = segment->p_filesz - offset;
        return 1;
    }
    return 0;
}

/* A compiler puts the parts of a function that run rarely elsewhere in the library, and they jump
 * back. */
static bool is_entered_from_elsewhere(const struct function *f)
{
    struct text text = {.addr = f->entry};
    return dl_iterate_phdr(find_text, &text) == 0 ||
           tm_x86_enters_from(text.addr - text.before_bytes, text.before_bytes + text.n_bytes,
                              f->entry, f->moved_bytes);
}

static bool prepare_function(struct function *f, uint8_t *slot, char *message, size_t message_bytes)
{
    uint8_t *back = slot + BACK_AT;
    size_t room = SLOT_BYTES - BACK_AT - FAR_JUMP_BYTES, made = 0;
    f->moved_bytes = tm_x86_move(f->entry, f->bytes, (uintptr_t)f->entry, JUMP_BYTES, back, room,
                                 (uintptr_t)back, &made);
    if (f->moved_bytes == 0 || tm_x86_enters(f->entry, f->bytes, f->moved_bytes) ||
        is_entered_from_elsewhere(f)) {
        snprintf(message, message_bytes, "%s of Python %s has code that cannot be redirected%s",
                 f->name, tm_py.version, PATCH_HINT);
        return false;
    }
    put_far_jump(slot, f->ours);
    put_far_jump(back + made, f->entry + f->moved_bytes);
    f->back_bytes = made + FAR_JUMP_BYTES;
    f->way_back = back;
    int32_t distance = (int32_t)(slot - (f->entry + JUMP_BYTES));
    uint8_t bytes[sizeof(uint64_t)];
    memcpy(&f->original, f->entry, sizeof(f->original));
    memcpy(bytes, f->entry, sizeof(bytes));
    bytes[0] = 0xe9;
    memcpy(bytes + 1, &distance, sizeof(distance));
    memcpy(&f->redirected, bytes, sizeof(f->redirected));
    return true;
}

bool tm_redirect_prepare(char *message, size_t message_bytes)
{
    if (page != NULL)
        return true;
    for (int i = 0; i < FUNCTIONS; i++)
        if (!find_function(&functions[i], message, message_bytes))
            return false;
    page = map_near(functions[0].entry);
    if (page == NULL) {
        snprintf(message, message_bytes, "there is no room for a page near Python's code");
        return false;
    }
    bool ok = true;
    for (int i = 0; i < FUNCTIONS && ok; i++)
        ok = prepare_function(&functions[i], page + (size_t)i * SLOT_BYTES, message, message_bytes);
    if (ok && mprotect(page, PAGE_BYTES, PROT_READ | PROT_EXEC) != 0) {
        ok = false;
        snprintf(message, message_bytes, "the system allows no new code in this process%s",
                 PATCH_HINT);
    }
    if (!ok)
        tm_redirect_done();
    return ok;
}

void tm_redirect_done(void)
{
    if (page != NULL && !installed) {
        munmap(page, PAGE_BYTES);
        page = NULL;
    }
}

/* ---- where the other threads are ---- */

enum { LOOK_MS = 20 };

static bool looked; /* and none is inside; the GIL has been held since */

/* The bytes that change, and the ways there and back. */
static bool threads_are_elsewhere(int timeout_ms)
{
    struct tm_code_range ranges[3 * FUNCTIONS];
    for (int i = 0; i < FUNCTIONS; i++) {
        const struct function *f = &functions[i];
        uint64_t entry = (uintptr_t)f->entry, back = (uintptr_t)f->way_back;
        ranges[3 * i] = (struct tm_code_range){entry, entry + f->moved_bytes};
        ranges[3 * i + 1] = (struct tm_code_range){back - BACK_AT, back - BACK_AT + FAR_JUMP_BYTES};
        ranges[3 * i + 2] = (struct tm_code_range){back, back + f->back_bytes};
    }
    return tm_bystanders_are_outside(ranges, 3 * FUNCTIONS, timeout_ms);
}

bool tm_redirect_look(int timeout_ms)
{
    looked = page != NULL && !stuck && threads_are_elsewhere(timeout_ms);
    return looked || page == NULL || stuck;
}

void tm_redirect_forget_look(void)
{
    looked = false;
}

/* ---- changing the entries ---- */

/* All processors see the new instructions when this returns (since Linux 4.16). */
static void synchronize_cores(void)
{
#ifdef SYS_membarrier
    if (syscall(SYS_membarrier, MEMBARRIER_REGISTER_SYNC_CORE, 0, 0) == 0)
        syscall(SYS_membarrier, MEMBARRIER_SYNC_CORE, 0, 0);
#endif
}

/*
 * The way that debuggers write: the kernel copies 8 aligned bytes, the page stays as it is
 * protected, and the mapping stays in one piece. Nobody executes these bytes meanwhile
 * (threads_are_elsewhere, and the GIL is held).
 */
static bool write_by_file(const struct function *f, uint64_t bytes)
{
    int fd = open("/proc/thread-self/mem", O_RDWR | O_CLOEXEC); /* as in bystanders.c */
    if (fd < 0)
        fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = pwrite(fd, &bytes, sizeof(bytes), (off_t)(uintptr_t)f->entry);
    close(fd);
    return n == sizeof(bytes);
}

/* Where the kernel does not let a process write to its own code that way. One store, so that the
 * entry is never half of each; the mapping stays in three pieces. */
static bool write_by_store(const struct function *f, uint64_t bytes)
{
    void *text = (void *)((uintptr_t)f->entry & ~(uintptr_t)(PAGE_BYTES - 1));
    if (mprotect(text, PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        return false;
    __atomic_store_n((uint64_t *)(void *)f->entry, bytes, __ATOMIC_SEQ_CST);
    mprotect(text, PAGE_BYTES, PROT_READ | PROT_EXEC);
    return true;
}

static bool write_entry(const struct function *f, uint64_t bytes)
{
    if (!write_by_file(f, bytes) && !write_by_store(f, bytes))
        return false;
    synchronize_cores();
    return true;
}

static bool entries_are(bool redirected)
{
    for (int i = 0; i < FUNCTIONS; i++) {
        uint64_t bytes = __atomic_load_n((uint64_t *)(void *)functions[i].entry, __ATOMIC_RELAXED);
        if (bytes != (redirected ? functions[i].redirected : functions[i].original))
            return false;
    }
    return true;
}

/* free goes first and comes back last: what was seen to be allocated is seen to be freed. */
static bool write_entries(bool redirected)
{
    static const int there[] = {FREE, REALLOC, MALLOC}, back[] = {MALLOC, REALLOC, FREE};
    bool ok = true;
    for (int i = 0; i < FUNCTIONS && ok; i++) {
        const struct function *f = &functions[redirected ? there[i] : back[i]];
        ok = write_entry(f, redirected ? f->redirected : f->original);
    }
    return ok;
}

/* ---- does Python call them? ---- */

static uint32_t probe_mallocs, probe_frees;

static void *probe_malloc(void *ctx, size_t size)
{
    probe_mallocs++;
    return original_malloc(ctx, size);
}

static void probe_free(void *ctx, void *block)
{
    probe_frees++;
    original_free(ctx, block);
}

/* False in a Python that was built without pymalloc: its objects come from malloc. */
static bool python_calls_them(void)
{
    current = (struct tm_py_allocator){
        .malloc = probe_malloc, .realloc = original_realloc, .free = probe_free};
    probe_mallocs = probe_frees = 0;
    tm_py_object *str = tm_py.PyString_FromString ? tm_py.PyString_FromString("a probe") : NULL;
    bool seen = str != NULL && probe_mallocs != 0;
    if (str != NULL)
        tm_py.Py_DecRef(str);
    tm_py.PyErr_Clear();
    return seen && probe_frees != 0;
}

static void set_problem(const char *why)
{
    snprintf(problem, sizeof(problem), "%s%s", why, PATCH_HINT);
}

static void install(const struct tm_py_allocator *allocator)
{
    problem[0] = '\0';
    refused = true;
    if (page == NULL || !entries_are(false)) {
        set_problem("another tool has changed PyObject_Malloc, PyObject_Realloc or PyObject_Free");
        return;
    }
    if (!looked && !threads_are_elsewhere(LOOK_MS)) {
        set_problem("a thread may be inside PyObject_Malloc without holding the GIL");
        return;
    }
    current = original;
    installed = true;
    if (!write_entries(true))
        set_problem("the system does not allow changing Python's code in memory");
    else if (!python_calls_them())
        set_problem("this Python was built without pymalloc");
    current = original;
    if (problem[0] == '\0') {
        refused = false;
        current = *allocator;
    } else if (write_entries(false)) {
        installed = false;
    } else {
        stuck = true;
    }
}

static void remove_all(void)
{
    refused = false;
    if (!installed)
        return;
    current = original;
    if (entries_are(true) && (looked || threads_are_elsewhere(LOOK_MS)) && write_entries(false))
        installed = false;
    else
        stuck = true;
}

void tm_redirect_get(int domain, struct tm_py_allocator *allocator)
{
    if (domain != TM_PY_DOMAIN_OBJ)
        *allocator = set_for[domain].malloc != NULL ? set_for[domain] : empty_domain;
    else if (stuck || (installed && !entries_are(true)))
        *allocator = lost;
    else if (refused)
        *allocator = set_for[domain];
    else
        *allocator = installed ? current : original;
}

void tm_redirect_set(int domain, struct tm_py_allocator *allocator)
{
    set_for[domain] = *allocator;
    if (domain != TM_PY_DOMAIN_OBJ)
        return;
    if (allocator->malloc == original_malloc)
        remove_all();
    else
        install(allocator);
}

#else

bool tm_redirect_prepare(char *message, size_t message_bytes)
{
    snprintf(message, message_bytes, "Python %s has no allocator API%s", tm_py.version, PATCH_HINT);
    return false;
}

void tm_redirect_done(void)
{
}

bool tm_redirect_look(int timeout_ms)
{
    (void)timeout_ms;
    return true;
}

void tm_redirect_forget_look(void)
{
}

void tm_redirect_get(int domain, struct tm_py_allocator *allocator)
{
    (void)domain;
    *allocator = current;
}

void tm_redirect_set(int domain, struct tm_py_allocator *allocator)
{
    (void)domain, (void)allocator;
}

#endif
