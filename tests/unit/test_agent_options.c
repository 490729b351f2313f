// SPDX-License-Identifier: MIT
/* payload/options.c: keys of START and SET, good and bad. */
#include "payload/options.h"

#include <glib.h>
#include <string.h>

static struct tm_msg_buf msg;

static void test_defaults(void)
{
    struct tm_options options;
    char message[128] = "";

    tm_options_init(&options);
    tm_msg_init(&msg, TM_MSG_START, 1);
    tm_msg_put(&msg, "a-key-of-the-future", "x");
    g_assert_true(tm_options_parse(&options, &msg, message, sizeof(message)));
    g_assert_true(options.with_traces);
    g_assert_cmpuint(options.delay_ms, ==, 60000);
    g_assert_cmpuint(options.threshold_bytes, ==, 5 << 20);
    g_assert_cmpuint(options.traceback_limit, ==, 1);
    g_assert_cmpstr(options.output, ==, "tracemalloc-$pid-$counter.tms");
}

static void test_values(void)
{
    struct tm_options options;
    char message[128] = "";

    tm_options_init(&options);
    tm_msg_init(&msg, TM_MSG_START, 1);
    tm_msg_put(&msg, "traces", "0");
    tm_msg_put(&msg, "traceback_limit", "4096");
    tm_msg_put(&msg, "delay_ms", "0");
    tm_msg_put(&msg, "repeat", "3");
    tm_msg_put(&msg, "utc_offset_s", "-12600");
    tm_msg_put(&msg, "output", "x/$pid");
    tm_msg_put(&msg, "pid", "123");
    g_assert_true(tm_options_parse(&options, &msg, message, sizeof(message)));
    g_assert_false(options.with_traces);
    g_assert_cmpuint(options.traceback_limit, ==, 4096);
    g_assert_cmpuint(options.delay_ms, ==, 0);
    g_assert_cmpuint(options.repeat, ==, 3);
    g_assert_cmpint(options.utc_offset_s, ==, -12600);
    g_assert_cmpuint(options.shown_pid, ==, 123);
    g_assert_cmpstr(options.output, ==, "x/$pid");
}

static void test_bad_values(void)
{
    g_autofree char *long_name = g_strnfill(TM_OUTPUT_TEMPLATE_BYTES, 'n');
    const char *const bad[][2] = {
        {"traceback_limit", "4097"},
        {"traceback_limit", "-1"},
        {"traceback_limit", ""},
        {"traces", "yes"},
        {"delay_ms", "1.5"},
        {"delay_ms", "18446744073709551615"},
        {"repeat", "0x10"},
        {"utc_offset_s", "x"},
        {"utc_offset_s", "86401"},
        {"utc_offset_s", "-"},
        {"output", ""},
        {"output", "folder/"},
        {"output", long_name},
        {"pid", "4294967296"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct tm_options options, before;
        char message[128] = "";
        memset(&before, 0, sizeof(before));
        tm_options_init(&before);
        memcpy(&options, &before, sizeof(options));
        tm_msg_init(&msg, TM_MSG_START, 1);
        tm_msg_put(&msg, "repeat", "9");
        tm_msg_put(&msg, bad[i][0], bad[i][1]);
        if (!strcmp(bad[i][0], "repeat")) {
            tm_msg_init(&msg, TM_MSG_START, 1);
            tm_msg_put(&msg, bad[i][0], bad[i][1]);
        }
        g_assert_false(tm_options_parse(&options, &msg, message, sizeof(message)));
        g_assert_true(g_str_has_prefix(message, bad[i][0]));
        g_assert_cmpmem(&options, sizeof(options), &before, sizeof(before));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/agent-options/defaults", test_defaults);
    g_test_add_func("/agent-options/values", test_values);
    g_test_add_func("/agent-options/bad-values", test_bad_values);
    return g_test_run();
}
