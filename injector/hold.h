// SPDX-License-Identifier: MIT
/*
 * A program that tm-attach starts, held where its interpreter is mapped and has not begun: while
 * it is looked at, it makes no progress. Held by ptrace: whatever happens to tm-attach, the kernel
 * lets it go.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct tm_hold tm_hold;

/* For a child that has not called exec yet. NULL where the kernel does not permit it. Free with
 * tm_hold_free, which lets go. */
tm_hold *tm_hold_new(pid_t child);
/* Follows the child (through the execs of shells and wrappers) until Python is mapped, and holds it
 * there. False: it has ended, or the time is over, and it was let go. */
bool tm_hold_at_python(tm_hold *hold, gint64 deadline_us);
/* The held thread, stopped at the end of a system call. Whoever stops it elsewhere leaves it in an
 * event stop. */
struct tm_tracee *tm_hold_get_tracee(tm_hold *hold);
/* Whether the child has ended meanwhile; *ret_status is then what waitpid has said of it. */
bool tm_hold_has_ended(const tm_hold *hold, int *ret_status);
/* Lets it go on. Again: nothing. */
void tm_hold_release(void *hold);
/*
 * Takes hold again, while the agent starts in it: the main thread goes on from system call to
 * system call, and rests in each for a moment while the agent waits for the GIL, which is free in
 * most of them. To be called all the time, instead of sleeping; comes back within a millisecond.
 */
void tm_hold_step(void *hold, uint32_t boot_phase);
/* The same after the start: the agent needs the GIL for an answer. */
void tm_hold_rest(void *hold);
void tm_hold_free(tm_hold *hold);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_hold, tm_hold_free)
