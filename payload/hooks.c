// SPDX-License-Identifier: MIT
#include "payload/hooks.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "payload/filter.h"
#include "payload/hooks_lane.h"
#include "payload/sample.h"

static struct tm_live no_live;
struct tm_live *tm_live = &no_live;
void (*tm_hooks_on_fork)(void);

struct tm_py_allocator tm_hooks_below[TM_PY_DOMAINS];
uint64_t tm_hooks_main_interp;
_Atomic bool tm_hooks_foreign_seen;
_Atomic uintptr_t tm_hooks_probe_thread;
uint32_t tm_hooks_probe_seen[TM_PY_DOMAINS];

static struct tm_py_allocator ours[TM_PY_DOMAINS]; /* as installed */
static bool installed;                             /* GIL */
static bool displaced;                             /* GIL */

/* The functions by which a copy of a hook of ours is known. GIL. */
static void *given[TM_PY_DOMAINS * 16];
static uint32_t n_given;

static void note_given(void *function)
{
    for (uint32_t i = 0; i < n_given; i++)
        if (given[i] == function)
            return;
    if (n_given < sizeof(given) / sizeof(given[0]))
        given[n_given++] = function;
}

static void give(int domain, struct tm_py_allocator hooks)
{
    ours[domain] = hooks;
    note_given((void *)hooks.malloc);
    tm_py.PyMem_SetAllocator(domain, &ours[domain]);
}

bool tm_hooks_was_given(uint64_t function)
{
    for (uint32_t i = 0; i < n_given; i++)
        if ((uint64_t)given[i] == function)
            return true;
    return false;
}

static bool same_functions(const struct tm_py_allocator *a, const struct tm_py_allocator *b)
{
    /* No calloc where Python has none (up to 3.4). */
    bool same_calloc = a->calloc == b->calloc || a->calloc == NULL || b->calloc == NULL;
    return a->malloc == b->malloc && same_calloc && a->realloc == b->realloc && a->free == b->free;
}

bool tm_hooks_setup(void)
{
    if (tm_live != &no_live)
        return true;
    int saved_errno = errno;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = page != MAP_FAILED && madvise(page, 4096, MADV_WIPEONFORK) == 0;
    if (ok) {
        tm_live = page;
        tm_live->known = 1;
    } else if (page != MAP_FAILED)
        munmap(page, 4096);
    errno = saved_errno;
    return ok;
}

void tm_hooks_done(void)
{
    struct tm_live *page = tm_live;
    tm_live = &no_live;
    if (page != &no_live)
        munmap(page, 4096);
}

bool tm_hooks_forked(void)
{
    return tm_live != &no_live && tm_live->known == 0;
}

/*
 * The first hook in the child runs while the interpreter is still busy with the fork: it remembers
 * the frame that forked. The child is past that when this frame has moved on or is gone; what
 * os.register_at_fork has registered runs above it.
 */
void tm_hooks_look_for_fork(void)
{
    if (tm_hooks_on_fork == NULL || tm_live == &no_live || tm_live->fork_noticed)
        return;
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    tm_frame_ref frame = tstate ? tm_frames_top(&tm_layout, tstate) : 0;
    while (frame != 0 && (tm_frames_is_shim(&tm_layout, frame) ||
                          (tm_live->fork_frame != 0 && frame != tm_live->fork_frame)))
        frame = tm_frames_back(&tm_layout, frame);
    if (tm_live->fork_frame == 0) {
        tm_live->fork_frame = frame;
        tm_live->fork_key = frame ? tm_frames_key(&tm_layout, frame) : 0;
        return;
    }
    if (frame != 0 && tm_frames_key(&tm_layout, frame) == tm_live->fork_key)
        return;
    tm_live->fork_noticed = 1;
    tm_hooks_on_fork();
}

void tm_hooks_adopt(void)
{
    tm_hooks_shared_forget_threads();
    atomic_store(&tm_hooks_probe_thread, 0);
    tm_hooks_unmute();
    tm_live->known = 1;
}

/* Which of our hooks an allocation from the top passes through: a bit by domain. */
static uint32_t reachable_domains(void)
{
    uint32_t seen = 0;
    uintptr_t mode = atomic_load(&tm_live->mode);
    memset(tm_hooks_probe_seen, 0, sizeof(tm_hooks_probe_seen));
    atomic_store(&tm_hooks_probe_thread, tm_tstate_thread_pointer());
    /* Nothing is recorded here: the probes are not the program's. */
    atomic_store(&tm_live->word, tm_tstate_thread_pointer());
    /* The half that only counts down to the next sample would let a probe pass unseen. */
    int64_t sample_left = tm_sample_left[TM_LANE_GIL];
    tm_sample_left[TM_LANE_GIL] = 0;
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++) {
        struct tm_py_allocator top;
        uint32_t before = tm_hooks_probe_seen[domain];
        tm_py.PyMem_GetAllocator(domain, &top);
        void *block = top.malloc(top.ctx, 16);
        if (block != NULL)
            top.free(top.ctx, block);
        if (tm_hooks_probe_seen[domain] != before)
            seen |= 1u << domain;
    }
    tm_sample_left[TM_LANE_GIL] = sample_left;
    atomic_store(&tm_live->word, mode);
    atomic_store(&tm_hooks_probe_thread, 0);
    return seen;
}

bool tm_hooks_reachable(void)
{
    return installed && reachable_domains() == (1u << TM_PY_DOMAINS) - 1;
}

void tm_hooks_install(void)
{
    /* A domain whose hook is still in somebody's chain must not be hooked twice: the chain would
     * become a circle. */
    uint32_t reachable = installed ? reachable_domains() : 0;
    tm_hooks_main_interp = 0;
    if (tm_py.version_hex >= 0x030c0000 && tm_py.PyInterpreterState_Main != NULL)
        tm_hooks_main_interp = (uint64_t)tm_py.PyInterpreterState_Main();
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++) {
        if (reachable & 1u << domain)
            continue;
        struct tm_py_allocator now;
        tm_py.PyMem_GetAllocator(domain, &now);
        /* A thread of the raw domain may still be inside our old hook: it must not read half. */
        if (!same_functions(&now, &tm_hooks_below[domain]) || now.ctx != tm_hooks_below[domain].ctx)
            tm_hooks_below[domain] = now;
        struct tm_py_allocator hooks =
            domain == TM_PY_DOMAIN_RAW ? tm_hooks_shared[domain] : *tm_hooks_gil((uint32_t)domain);
        hooks.ctx = tm_hooks_below[domain].ctx;
        give(domain, hooks);
    }
    installed = true;
}

void tm_hooks_restart(void)
{
    displaced = true;
    tm_hooks_install();
    tm_hooks_choose_half();
}

enum tm_unhook tm_hooks_remove(void)
{
    if (!installed)
        return displaced ? TM_UNHOOK_INERT : TM_UNHOOK_RESTORED;
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++) {
        struct tm_py_allocator now;
        tm_py.PyMem_GetAllocator(domain, &now);
        if (!same_functions(&now, &ours[domain]))
            return TM_UNHOOK_INERT;
    }
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++)
        tm_py.PyMem_SetAllocator(domain, &tm_hooks_below[domain]);
    /* Redirected functions (payload/redirect.h) may have to stay redirected. */
    for (int domain = 0; domain < TM_PY_DOMAINS; domain++) {
        struct tm_py_allocator now;
        tm_py.PyMem_GetAllocator(domain, &now);
        if (!same_functions(&now, &tm_hooks_below[domain]))
            return TM_UNHOOK_INERT;
    }
    installed = displaced; /* then look for them before they are put in again */
    return displaced ? TM_UNHOOK_INERT : TM_UNHOOK_RESTORED;
}

static void set_mode(uintptr_t mode)
{
    atomic_store(&tm_live->mode, mode);
    atomic_store(&tm_live->word, mode);
}

/* Hooks that could not be taken out of another tool's chain stay, and may have been made for a
 * session of another kind: their fast half does not sample, or samples, or knows no native frames.
 */
static bool hooks_fit(void)
{
    for (int domain = TM_PY_DOMAIN_MEM; domain < TM_PY_DOMAINS; domain++)
        if (!same_functions(&ours[domain], tm_hooks_gil((uint32_t)domain)))
            return false;
    return true;
}

/* Under the GIL nobody is in these hooks; one that another tool has in its chain stays as it is. */
void tm_hooks_refit(void)
{
    for (int domain = TM_PY_DOMAIN_MEM; installed && domain < TM_PY_DOMAINS; domain++) {
        struct tm_py_allocator now, fitting = *tm_hooks_gil((uint32_t)domain);
        tm_py.PyMem_GetAllocator(domain, &now);
        if (!same_functions(&now, &ours[domain]) || same_functions(&now, &fitting))
            continue;
        fitting.ctx = ours[domain].ctx;
        give(domain, fitting);
    }
}

void tm_hooks_choose_half(void)
{
    if (atomic_load(&tm_live->mode) != TM_WORD_OFF)
        set_mode(tm_store.snapshot_active || tm_filter_any() || !hooks_fit() || tm_hooks_is_muted()
                     ? TM_WORD_SLOW
                     : TM_WORD_FAST);
}

void tm_hooks_new_session(void)
{
    tm_hooks_session++;
}

void tm_hooks_start(void)
{
    tm_hooks_session++;
    atomic_store(&tm_live->mode, TM_WORD_SLOW);
    tm_hooks_choose_half();
}

void tm_hooks_stop(void)
{
    set_mode(TM_WORD_OFF);
    while (tm_hooks_shared_recording() != 0)
        sched_yield();
}

int tm_hooks_inside(void)
{
    return tm_hooks_shared_inside();
}
