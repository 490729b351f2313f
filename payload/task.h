// SPDX-License-Identifier: MIT
/*
 * When the next snapshot is due: by time, by movement of the traced memory, or
 * whichever comes first. Pure arithmetic: the caller passes clock and totals.
 *
 * Agent thread only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct tm_task {
    uint64_t delay_ms;        /* 0: not by time */
    uint64_t threshold_bytes; /* 0: not by memory */
    uint64_t repeat_left;     /* firings to come; UINT64_MAX: no end */
    bool scheduled;
    uint64_t due_ns;     /* TM_NEVER: not by time */
    uint64_t low_bytes;  /* fires at or below; 0: no lower edge */
    uint64_t high_bytes; /* fires at or above; UINT64_MAX: no upper edge */
};

/* Sets the task's terms and schedules it around (now, traced). repeat 0: no end. Without delay and
 * threshold the task is not scheduled. */
void tm_task_schedule(struct tm_task *task, uint64_t delay_ms, uint64_t threshold_bytes,
                      uint64_t repeat, uint64_t now_ns, uint64_t traced_bytes);
/* Centres time and window anew, the count of firings left as it is. */
void tm_task_centre(struct tm_task *task, uint64_t now_ns, uint64_t traced_bytes);
void tm_task_cancel(struct tm_task *task);
/* One firing is about to be served: the count goes down, the task is off until tm_task_centre. */
void tm_task_fire(struct tm_task *task);
/* Whether there is a firing left to centre for. */
bool tm_task_is_exhausted(const struct tm_task *task);
bool tm_task_is_due(const struct tm_task *task, uint64_t now_ns);
/* Whether a wake-up by the window is believed: see task.c. */
bool tm_task_window_fired(const struct tm_task *task, uint64_t traced_bytes, uint64_t peak_bytes);
