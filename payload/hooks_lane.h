// SPDX-License-Identifier: MIT
/*
 * What the hooks of all lanes share. Private to payload/hooks*.c.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/frames.h"
#include "payload/hooks.h"
#include "payload/pyapi.h"
#include "payload/store.h"
#include "payload/traceback.h"
#include "payload/tstate.h"

/* Values of tm_live->word and ->mode. Any other value of `word` is the thread pointer of the
 * thread that is inside the allocator below an obj or mem hook: what it allocates there belongs to
 * the block that is being made. */
enum tm_hook_word {
    TM_WORD_OFF = 0,  /* pass through */
    TM_WORD_FAST = 1, /* every block, no filters, no snapshot under way */
    TM_WORD_SLOW = 2, /* something is to be looked at */
};

/* Allocators below ours; written while they are not in use. */
extern struct tm_py_allocator tm_hooks_below[TM_PY_DOMAINS] TM_HIDDEN;

/* The interpreter whose GIL guards the GIL lane; 0: all interpreters share one GIL. */
extern uint64_t tm_hooks_main_interp TM_HIDDEN;
/* True where this is a thread of that interpreter, not 0; interp_offset: of PyThreadState.interp.
 */
TM_ALWAYS_INLINE bool tm_hooks_is_main(uint64_t tstate, int32_t interp_offset)
{
    return tm_frames_load(tstate + (uint32_t)interp_offset) == tm_hooks_main_interp;
}

/* An interpreter with another GIL has allocated. */
extern _Atomic bool tm_hooks_foreign_seen TM_HIDDEN;

/* A probe: the hooks of this thread count what passes through them. */
extern _Atomic uintptr_t tm_hooks_probe_thread;
extern uint32_t tm_hooks_probe_seen[TM_PY_DOMAINS];

static inline void tm_hooks_probe(uintptr_t self, uint32_t domain)
{
    if (TM_UNLIKELY(atomic_load_explicit(&tm_hooks_probe_thread, memory_order_relaxed) == self))
        tm_hooks_probe_seen[domain]++;
}

/* True where this call belongs to a block that a hook further up is making. */
bool tm_hooks_is_nested(uintptr_t self);

/* A hook of the GIL lane that passes through, in a process that may be a forked child. */
void tm_hooks_look_for_fork(void);

/* Around a call of the allocator below by a thread that holds the main interpreter's GIL. */
TM_ALWAYS_INLINE void tm_hooks_enter(uintptr_t self)
{
    atomic_store_explicit(&tm_live->word, self, memory_order_relaxed);
}

TM_ALWAYS_INLINE void tm_hooks_leave(void)
{
    atomic_store_explicit(&tm_live->word,
                          atomic_load_explicit(&tm_live->mode, memory_order_relaxed),
                          memory_order_relaxed);
}

/* The allocator below of the GIL lane. The old record is out of the map while it runs (its address
 * may be somebody else's afterwards) and out of the counters once it has succeeded; where it fails
 * (NULL) the record is as it was. `old` may be NULL; the new block is yet to be recorded. */
TM_ALWAYS_INLINE void *tm_hooks_realloc_below(uint32_t domain, uintptr_t self, void *old,
                                              size_t size)
{
    struct tm_taken taken = {0, 0};
    if (old != NULL)
        taken = tm_store_take(TM_LANE_GIL, (uint64_t)old);
    tm_hooks_enter(self);
    void *block = tm_hooks_below[domain].realloc(tm_hooks_below[domain].ctx, old, size);
    tm_hooks_leave();
    if (taken.entry != 0) {
        if (TM_UNLIKELY(block == NULL))
            tm_store_put_back((uint64_t)old, taken);
        else
            tm_store_unaccount(TM_LANE_GIL, taken);
    }
    return block;
}

/* The four calls by a thread of a shared lane (hooks_shared.c). */
void *tm_hooks_shared_malloc(uint32_t domain, uintptr_t self, size_t size);
void *tm_hooks_shared_calloc(uint32_t domain, uintptr_t self, size_t n, size_t size);
void *tm_hooks_shared_realloc(uint32_t domain, uintptr_t self, void *old, size_t size);
void tm_hooks_shared_free(uint32_t domain, void *block);
/* Threads of the shared lanes inside a hook, and those of them that touch the store. */
int tm_hooks_shared_inside(void);
int tm_hooks_shared_recording(void);

/* A forked child has none of these threads. */
void tm_hooks_shared_forget_threads(void);
/* Counts the sessions of tracing; changes while nobody records. */
extern uint32_t tm_hooks_session;

/* The raw hooks, and the mem and obj hooks of a free-threaded build. */
extern const struct tm_py_allocator tm_hooks_shared[TM_PY_DOMAINS];
/* The mem or obj hooks that fit the layout in force. ctx is filled in at installation. */
const struct tm_py_allocator *tm_hooks_gil(uint32_t domain);
/* Those that walk native frames, in front of the ones given. The fast thread state is known. */
const struct tm_py_allocator *tm_hooks_native(uint32_t domain,
                                              const struct tm_py_allocator *without);
