// SPDX-License-Identifier: MIT
/*
 * The GIL, taken by the agent's thread as any thread takes it.
 *
 * In an interpreter that is being torn down, PyGILState_Ensure ends the calling
 * thread (up to 3.13) or never returns (from 3.14 on); what must then still be
 * done is in the thread's exit handler, see entry.c.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/*
 * Up to 3.6 a program that has never started a thread has no GIL: PyGILState_Ensure would let this
 * thread run beside the main one. There the main thread is asked, by a pending call, to make the
 * GIL, as it does when it starts its first thread. -ETIMEDOUT: it executes no Python now. No GIL.
 */
int tm_gil_make(uint64_t timeout_ms);
/* The same where a thread of Python's calls us: with it, or as the only one. */
void tm_gil_make_here(void);
/* After that: returns when the main thread has made the call after all and left it, which may be
 * never. Before, the payload must not be unmapped. */
void tm_gil_wait_for_call(void);

/* 0 with *ret_state for tm_gil_drop, or -ENODEV where the interpreter is not up or goes down. Waits
 * as long as it takes. */
int tm_gil_take(int *ret_state);
void tm_gil_drop(int state);

/*
 * A thread state of the calling thread's own, which tm_gil_take uses from then on instead of making
 * one each time. No GIL. Two faults of CPython's meet every thread that makes one: a process that
 * is forked at that moment leaves the lock of the list of threads to its child, which then waits
 * for ever (up to 3.11: PyOS_AfterFork_Child looks at the list before it makes the lock anew), and
 * tracemalloc frees under the thread what its raw hook still uses, if it is stopped while that hook
 * waits for the GIL. -ENODEV as tm_gil_take, -ENOMEM.
 */
int tm_gil_make_state(void);
/* Whether the interpreter of that state has gone down, also where another one has come up since:
 * its objects must not be touched. To be asked by the state's thread without the GIL: what taking
 * it makes in the next interpreter may well lie at the same address. */
bool tm_gil_has_ended(void);
/* As tm_gil_drop, and the state is gone. */
void tm_gil_drop_last(int gil);
/* The same where the GIL is not taken. Nothing is done where there is no such state any more. */
void tm_gil_drop_state(void);

struct tm_gil_start {
    uint64_t timeout_ms;
    void (*give_up)(void *arg);
    /* Between them no process is to be forked, as far as that can be had. NULL: nothing is done. */
    void (*hold_forks)(void *arg);
    void (*let_fork)(void *arg);
    void *arg;
};

/*
 * tm_gil_make_state, then tm_gil_take with a bound. The wait itself cannot be cut short, so a
 * second thread watches the clock: when the bound has passed, it calls give_up(arg), once, from
 * that thread, and the caller goes on waiting; when the GIL comes at last it is handed back and
 * -ETIMEDOUT returned. -EAGAIN: no thread could be made. The state is there on success only.
 */
int tm_gil_take_bounded(const struct tm_gil_start *start, int *ret_state);
