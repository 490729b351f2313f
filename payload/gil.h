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
 * The same with a bound. The wait itself cannot be cut short, so a second
 * thread watches the clock: when the bound has passed, it calls give_up(arg),
 * once, from that thread, and the caller goes on waiting; when the GIL comes at
 * last it is handed back and -ETIMEDOUT returned. -EAGAIN: no thread could be made.
 */
int tm_gil_take_bounded(uint64_t timeout_ms, void (*give_up)(void *arg), void *arg, int *ret_state);
