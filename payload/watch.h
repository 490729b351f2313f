// SPDX-License-Identifier: MIT
/*
 * Who wants to know when the traced memory leaves a range. There are two: the
 * agent's snapshot task and the tasks of the Python module. The hot path looks
 * at one range only (tm_store.window_*), the intersection of theirs.
 *
 * Setting and clearing: any thread. A callback runs inside a hook, on the thread
 * that allocates: it must not allocate, block, or touch errno's value.
 */
#pragma once

#include <stdint.h>

enum tm_watch_id { TM_WATCH_AGENT = 0, TM_WATCH_TASKS = 1, TM_WATCHES = 2 };

/* Called once when traced <= low or traced >= high; the watch is off then. */
typedef void tm_watch_fn(void);

/* low -1: no lower edge; high INT64_MAX: no upper one. */
void tm_watch_set(enum tm_watch_id id, int64_t low_bytes, int64_t high_bytes, tm_watch_fn *crossed);
void tm_watch_clear(enum tm_watch_id id);
/* What the traced memory was when it left the range since the last time that this was asked: its
 * least and its most; INT64_MAX and -1 where it did not. What it gives belongs to ranges that were
 * set before, and to none that is set from now on. */
void tm_watch_take(enum tm_watch_id id, int64_t *ret_lowest_bytes, int64_t *ret_highest_bytes);
/* What the hooks call (tm_store.window_crossed). */
void tm_watch_crossed(void);
/* In a forked child: the parent's watches are not ours. */
void tm_watch_forget(void);
/* Puts the ranges in force again after the store was made anew. */
void tm_watch_renew(void);
