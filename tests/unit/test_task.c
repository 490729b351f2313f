// SPDX-License-Identifier: MIT
/* payload/task.c: windows and delays by the book. */
#include "payload/task.h"

#include <glib.h>

#include "payload/clock.h"

static void test_delay(void)
{
    struct tm_task task;

    tm_task_schedule(&task, 100, 0, 0, 5 * TM_NS_PER_S, 0);
    g_assert_true(task.scheduled);
    g_assert_cmpuint(task.due_ns, ==, 5 * TM_NS_PER_S + 100 * TM_NS_PER_MS);
    g_assert_false(tm_task_is_due(&task, task.due_ns - 1));
    g_assert_true(tm_task_is_due(&task, task.due_ns));
    g_assert_false(tm_task_window_fired(&task, 1000, 1000));
}

static void test_window_both_ways(void)
{
    struct tm_task task;

    tm_task_schedule(&task, 0, 100, 0, 0, 1000);
    g_assert_cmpuint(task.low_bytes, ==, 900);
    g_assert_cmpuint(task.high_bytes, ==, 1100);
    g_assert_cmpuint(task.due_ns, ==, TM_NEVER);
    g_assert_true(tm_task_window_fired(&task, 900, 2000));
    g_assert_true(tm_task_window_fired(&task, 1100, 1100));
    tm_task_fire(&task);
    g_assert_false(tm_task_window_fired(&task, 1100, 1100));
    tm_task_centre(&task, 0, 1100);
    g_assert_cmpuint(task.low_bytes, ==, 1000);
    g_assert_cmpuint(task.high_bytes, ==, 1200);
}

static void test_window_at_zero(void)
{
    struct tm_task task;

    tm_task_schedule(&task, 0, 100, 0, 0, 0);
    g_assert_cmpuint(task.low_bytes, ==, 0);
    g_assert_cmpuint(task.high_bytes, ==, 100);
    g_assert_false(tm_task_window_fired(&task, 0, 50)); /* a fall to nothing is no firing */
    g_assert_true(tm_task_window_fired(&task, 0, 100)); /* up and down again is one */
    tm_task_centre(&task, 0, 100);
    g_assert_cmpuint(task.low_bytes, ==, 0);
    tm_task_centre(&task, 0, 101);
    g_assert_cmpuint(task.low_bytes, ==, 1);
    tm_task_schedule(&task, 0, UINT64_MAX - 5, 0, 0, 100);
    g_assert_cmpuint(task.high_bytes, ==, UINT64_MAX);
}

static void test_repeat(void)
{
    struct tm_task task;

    tm_task_schedule(&task, 10, 100, 2, 0, 0);
    tm_task_fire(&task);
    g_assert_false(task.scheduled);
    tm_task_centre(&task, 0, 0);
    g_assert_true(task.scheduled);
    tm_task_fire(&task);
    tm_task_centre(&task, 0, 0);
    g_assert_false(task.scheduled);
    g_assert_true(tm_task_is_exhausted(&task));
    tm_task_schedule(&task, 10, 0, 0, 0, 0);
    for (int i = 0; i < 1000; i++) {
        tm_task_fire(&task);
        tm_task_centre(&task, 0, 0);
    }
    g_assert_true(task.scheduled);
}

static void test_neither(void)
{
    struct tm_task task;

    tm_task_schedule(&task, 0, 0, 0, 0, 100);
    g_assert_false(task.scheduled);
    g_assert_false(tm_task_is_due(&task, TM_NEVER));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/task/delay", test_delay);
    g_test_add_func("/task/window-both-ways", test_window_both_ways);
    g_test_add_func("/task/window-at-zero", test_window_at_zero);
    g_test_add_func("/task/repeat", test_repeat);
    g_test_add_func("/task/neither", test_neither);
    return g_test_run();
}
