// SPDX-License-Identifier: MIT
/* payload/template.c: names of files. */
#include "payload/template.h"

#include <glib.h>
#include <string.h>
#include <time.h>

static char out[64];

static const char *expand(const char *template, uint64_t counter, uint64_t seconds, int64_t offset)
{
    struct tm_template_values values = {
        .pid = 4711, .counter = counter, .real_ns = seconds * 1000000000, .utc_offset_s = offset};

    return tm_template_expand(template, &values, out, sizeof(out)) ? out : NULL;
}

static void test_variables(void)
{
    g_assert_cmpstr(expand("a-$pid-$counter.tms", 1, 0, 0), ==, "a-4711-0001.tms");
    g_assert_cmpstr(expand("$counter$counter", 12345, 0, 0), ==, "1234512345");
    g_assert_cmpstr(expand("$timestamp.tms", 1, 1380800079, 0), ==, "2013-10-03-11:34:39.tms");
    g_assert_cmpstr(expand("$timestamp", 1, 1380800079, 7200), ==, "2013-10-03-13:34:39");
    g_assert_cmpstr(expand("$ $$pid $pids $other %d", 1, 0, 0), ==, "$ $4711 4711s $other %d");
    g_assert_cmpstr(expand("", 1, 0, 0), ==, "");
}

static void test_too_long(void)
{
    g_autofree char *just = g_strnfill(sizeof(out) - 1, 'x');
    g_autofree char *over = g_strnfill(sizeof(out), 'x');
    g_autofree char *edge = g_strconcat(just + 8, "$timestamp", NULL);

    g_assert_cmpstr(expand(just, 1, 0, 0), ==, just);
    g_assert_null(expand(over, 1, 0, 0));
    g_assert_null(expand(edge, 1, 0, 0));
}

static void test_dates(void)
{
    for (int i = 0; i < 5000; i++) {
        int64_t seconds = (int64_t)g_test_rand_double_range(0, 16e9);
        time_t as_time = (time_t)seconds;
        char expected[40];
        struct tm tm;
        gmtime_r(&as_time, &tm);
        strftime(expected, sizeof(expected), "%Y-%m-%d-%H:%M:%S", &tm);
        g_assert_cmpstr(expand("$timestamp", 1, (uint64_t)seconds, 0), ==, expected);
    }
    g_assert_cmpstr(expand("$timestamp", 1, 0, -1), ==, "1969-12-31-23:59:59");
    g_assert_cmpstr(expand("$timestamp", 1, 951782400, 0), ==, "2000-02-29-00:00:00");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/template/variables", test_variables);
    g_test_add_func("/template/too-long", test_too_long);
    g_test_add_func("/template/dates", test_dates);
    return g_test_run();
}
