// SPDX-License-Identifier: MIT
/*
 * The PEP 445 hooks: what runs on the program's threads at every allocation.
 *
 * A hook never fails or changes the program's own allocation, takes no lock
 * under the GIL, calls no allocator but the one below it, and keeps errno. Our
 * allocator structs carry the ctx of the allocator below, so that a thread that
 * reads half of an old and half of a new struct (the raw domain is not guarded
 * by the GIL) still calls a function with the ctx it expects.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "payload/pyapi.h"
#include "payload/state.h"
#include "payload/tracer.h"

/* Zero in a forked child, whatever the parent was doing (MADV_WIPEONFORK): the child's hooks pass
 * through. Both are written under the GIL. */
struct tm_live {
    _Atomic uintptr_t word; /* see payload/hooks_lane.h */
    _Atomic uintptr_t mode; /* what `word` is while no hook is at work */
    uint32_t known;         /* 1; 0: this process was forked since */
    /* In a forked child, see tm_hooks_on_fork; the place where it was forked. */
    uint32_t fork_noticed;
    uint64_t fork_frame, fork_key;
    _Atomic uint32_t watch_lock; /* see payload/watch.c */
};
extern struct tm_live *tm_live TM_HIDDEN;

/* Called once in a child that os.fork made, by a hook under the GIL, as soon as the child's Python
 * code has gone on from the fork (so that the interpreter has set itself up anew). NULL: nothing
 * to do. It must not allocate with Python's allocators. Guarded by the GIL. */
extern void (*tm_hooks_on_fork)(void);

/* GIL for all of them. */

/* Prepares what hooks read. False where memory is short. Idempotent. */
bool tm_hooks_setup(void);
/* Gives up what setup took; no thread can be in a hook. */
void tm_hooks_done(void);
/* Puts our hooks on top where they cannot be reached from the top already. The store must be up. */
void tm_hooks_install(void);
/* After native frames were switched on or off. Before tm_hooks_choose_half. */
void tm_hooks_refit(void);
/* Takes them out where all that are in place are topmost. */
enum tm_unhook tm_hooks_remove(void);
/* Another tool has taken our hooks out: puts them on top again. That tool may hold on to them and
 * bring them back at any time, so that tm_hooks_remove says INERT from now on. */
void tm_hooks_restart(void);
/* Allocates and frees in each domain: true where our hook saw all of them. */
bool tm_hooks_reachable(void);

/* Records from now on: the store and the caches are ready. */
void tm_hooks_start(void);
/* Returns when no thread is recording any more. */
void tm_hooks_stop(void);
/* Chooses between the fast and the slow half: after a snapshot began or ended, or filters changed.
 */
void tm_hooks_choose_half(void);
/* What this thread allocates until the end is our own work and is not traced. Nothing may wait in
 * between but for the GIL. end takes what begin gave. */
int tm_hooks_own_begin(void);
void tm_hooks_own_end(int slot);
/* As tm_gil_take and tm_gil_drop, without tracing the thread state that they may make. */
int tm_hooks_gil_take(int *ret_gil);
void tm_hooks_gil_drop(int gil);
/* What this thread allocates from where its Python code stands now is our own work, and not traced,
 * until the end; what it calls from there is traced. The GIL may be let go in between. One at a
 * time. */
void tm_hooks_mute_here(void);
void tm_hooks_unmute(void);
bool tm_hooks_is_muted(void);
/* True in a child that was forked since tm_hooks_setup or _adopt. */
bool tm_hooks_forked(void);
/* In such a child: forgets the parent's threads. */
void tm_hooks_adopt(void);
/* The store was emptied: what threads have lifted out of it for a realloc must not come back.
 * The lanes stand still. */
void tm_hooks_new_session(void);
/* Threads that are inside a hook now, GIL lane not counted. */
int tm_hooks_inside(void);
/* True where a variable of some module holds the address of a hook of ours, after they were
 * removed: the code must stay. Takes the GIL, and with it the loader's lock. */
bool tm_hooks_are_kept(void);
/* Whether it is one that was put in for malloc. */
bool tm_hooks_was_given(uint64_t function);
