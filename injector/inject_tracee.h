// SPDX-License-Identifier: MIT
/* One traced thread: seize, stop, wait with a bound, let go. Runs in the worker only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum tm_stop {
    TM_STOP_NONE = 0, /* nothing within the bound */
    TM_STOP_EVENT,    /* PTRACE_EVENT_STOP: interrupted or group-stopped */
    TM_STOP_SYSCALL,  /* entry or exit of a system call */
    TM_STOP_EXEC,     /* has just called exec; tm_tracee_seize_through_exec only */
    TM_STOP_SIGNAL,   /* about to get a signal */
    TM_STOP_GONE,     /* ended */
};

struct tm_tracee {
    pid_t tid;
    int signal;              /* of TM_STOP_SIGNAL */
    int end_status;          /* of TM_STOP_GONE, as waitpid gave it; -1: not known */
    unsigned traps_count;    /* tm_tracee_pending_traps when it had stopped */
    uint64_t interrupted_ns; /* CLOCK_MONOTONIC of the request to stop */
};

/* Blocks SIGCHLD, so that waits can have a bound. Once per worker. */
void tm_tracee_init_process(void);

uint64_t tm_tracee_now_ns(void);

/* 0 or -errno: -EPERM (traced by somebody or not allowed), -ESRCH. Stops nothing. */
int tm_tracee_seize(struct tm_tracee *tracee, pid_t tid);
/* The same, with stops at exec. */
int tm_tracee_seize_through_exec(struct tm_tracee *tracee, pid_t tid);
/* Asks for a stop and waits for it; signals that come first are passed on. STOP_EVENT, _GONE, or
 * _NONE where the thread did not stop in time: then only the worker's end lets go of it. */
enum tm_stop tm_tracee_interrupt(struct tm_tracee *tracee, uint64_t deadline_ns);
/* Goes on waiting for a stop that was asked for. */
enum tm_stop tm_tracee_wait_for_event(struct tm_tracee *tracee, uint64_t deadline_ns);
/* Waits for the next stop of any kind. */
enum tm_stop tm_tracee_wait(struct tm_tracee *tracee, uint64_t deadline_ns);
/* Goes on until the next system call stop (or any other). 0 or -errno. */
int tm_tracee_continue_to_syscall(struct tm_tracee *tracee, int signal);
int tm_tracee_continue(struct tm_tracee *tracee, int signal);
/* From any stop to an event stop at the next possible moment, without executing an instruction of
 * the program where the thread is stopped in the kernel. Signals on the way are kept for later. */
enum tm_stop tm_tracee_to_event_stop(struct tm_tracee *tracee, uint64_t deadline_ns);
/* SIGTRAPs of the kernel's own that wait for the stopped thread. Nothing here makes one; one that
 * is left over would end the program. So they are counted when the thread has stopped, and what has
 * come on top is dropped before it goes. The thread is in an event or signal stop. */
unsigned tm_tracee_pending_traps(const struct tm_tracee *tracee);
void tm_tracee_swallow_traps(struct tm_tracee *tracee, unsigned keep_count, uint64_t deadline_ns);
/* Lets a stopped thread go. A group stop goes on. */
void tm_tracee_detach(struct tm_tracee *tracee);
