// SPDX-License-Identifier: MIT
#include "payload/task.h"

#include "payload/clock.h"

void tm_task_cancel(struct tm_task *task)
{
    task->scheduled = false;
    task->due_ns = TM_NEVER;
    task->low_bytes = 0;
    task->high_bytes = UINT64_MAX;
}

void tm_task_centre(struct tm_task *task, uint64_t now_ns, uint64_t traced_bytes)
{
    tm_task_cancel(task);
    if (task->repeat_left == 0 || (!task->delay_ms && !task->threshold_bytes))
        return;
    task->scheduled = true;
    if (task->delay_ms)
        task->due_ns = tm_clock_after_ms(now_ns, task->delay_ms);
    if (task->threshold_bytes) {
        /* A lower edge cut off at zero is none: tracing starts with an empty store, and a fall
         * back to zero there is no movement by the threshold. */
        if (traced_bytes > task->threshold_bytes)
            task->low_bytes = traced_bytes - task->threshold_bytes;
        if (__builtin_add_overflow(traced_bytes, task->threshold_bytes, &task->high_bytes))
            task->high_bytes = UINT64_MAX;
    }
}

void tm_task_schedule(struct tm_task *task, uint64_t delay_ms, uint64_t threshold_bytes,
                      uint64_t repeat, uint64_t now_ns, uint64_t traced_bytes)
{
    task->delay_ms = delay_ms;
    task->threshold_bytes = threshold_bytes;
    task->repeat_left = repeat ? repeat : UINT64_MAX;
    tm_task_centre(task, now_ns, traced_bytes);
}

void tm_task_fire(struct tm_task *task)
{
    tm_task_cancel(task);
    if (task->repeat_left != UINT64_MAX && task->repeat_left > 0)
        task->repeat_left--;
}

bool tm_task_is_exhausted(const struct tm_task *task)
{
    return task->repeat_left == 0;
}

bool tm_task_is_due(const struct tm_task *task, uint64_t now_ns)
{
    return task->scheduled && now_ns >= task->due_ns;
}

/* The hook looked at the totals of its moment; by now they may be back inside the window, and the
 * firing still counts. Only a fall to zero without a lower edge is no firing. */
bool tm_task_window_fired(const struct tm_task *task, uint64_t traced_bytes, uint64_t peak_bytes)
{
    if (!task->scheduled || !task->threshold_bytes)
        return false;
    return task->low_bytes > 0 || traced_bytes >= task->high_bytes ||
           peak_bytes >= task->high_bytes;
}
