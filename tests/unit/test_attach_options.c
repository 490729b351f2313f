// SPDX-License-Identifier: MIT
/* injector/options.c: the command line. */
#include "injector/options.h"

#include <glib.h>
#include <string.h>

static struct tm_attach_options options;
static GError *error;

/* Words separated by blanks. */
static bool parse(const char *line)
{
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);

    return tm_attach_options_parse(&options, (int)g_strv_length(argv), argv, &error);
}

static void done(void)
{
    tm_attach_options_done(&options);
    g_clear_error(&error);
}

static void test_attach(void)
{
    g_assert_true(parse("tm-attach 12 --delay 1.5 --memory-threshold 5M --no-traces 13 --repeat=2 "
                        "--output a-$pid --traceback-limit 16 --lifetime 60 --max-snapshots 3"));
    g_assert_cmpint(options.verb, ==, TM_VERB_ATTACH);
    g_assert_cmpuint(options.pids->len, ==, 2);
    g_assert_cmpint(g_array_index(options.pids, pid_t, 1), ==, 13);
    g_assert_cmpuint(options.delay_ms.value, ==, 1500);
    g_assert_cmpuint(options.threshold_bytes.value, ==, 5 << 20);
    g_assert_true(options.traces.given);
    g_assert_cmpuint(options.traces.value, ==, 0);
    g_assert_cmpuint(options.repeat.value, ==, 2);
    g_assert_cmpuint(options.traceback_limit.value, ==, 16);
    g_assert_cmpuint(options.lifetime_ms.value, ==, 60000);
    g_assert_cmpuint(options.max_snapshots.value, ==, 3);
    g_assert_cmpstr(options.output, ==, "a-$pid");
    g_assert_true(tm_attach_options_change_anything(&options));
    done();
    g_assert_true(parse("tm-attach 12"));
    g_assert_false(options.delay_ms.given);
    g_assert_false(tm_attach_options_change_anything(&options));
    done();
}

static void test_verbs(void)
{
    g_assert_true(parse("tm-attach --status 12"));
    g_assert_cmpint(options.verb, ==, TM_VERB_STATUS);
    done();
    g_assert_true(parse("tm-attach --snapshot 12"));
    g_assert_cmpint(options.verb, ==, TM_VERB_SNAPSHOT);
    done();
    g_assert_true(parse("tm-attach 12 --detach --children"));
    g_assert_cmpint(options.verb, ==, TM_VERB_DETACH);
    g_assert_true(options.children);
    done();
    g_assert_true(parse("tm-attach --version"));
    g_assert_cmpint(options.verb, ==, TM_VERB_VERSION);
    done();
}

static void test_launch(void)
{
    char *argv[] = {(char *)"tm-attach", (char *)"--delay", (char *)"1",  (char *)"--",
                    (char *)"python3",   (char *)"--delay", (char *)"--", NULL};

    g_assert_true(tm_attach_options_parse(&options, 7, argv, &error));
    g_assert_cmpint(options.verb, ==, TM_VERB_LAUNCH);
    g_assert_cmpuint(options.delay_ms.value, ==, 1000);
    g_assert_cmpstr(options.command[0], ==, "python3");
    g_assert_cmpstr(options.command[1], ==, "--delay");
    g_assert_cmpstr(options.command[2], ==, "--");
    g_assert_null(options.command[3]);
    done();
}

static void test_usage_errors(void)
{
    const char *const bad[] = {
        "tm-attach",
        "tm-attach x",
        "tm-attach 0",
        "tm-attach -5",
        "tm-attach 99999999999",
        "tm-attach 1 --delay x",
        "tm-attach 1 --delay -1",
        "tm-attach 1 --delay inf",
        "tm-attach 1 --memory-threshold 5X",
        "tm-attach 1 --memory-threshold 5M5",
        "tm-attach 1 --memory-threshold 9999999T",
        "tm-attach 1 --repeat 1.5",
        "tm-attach 1 --traces --no-traces",
        "tm-attach 1 --status --detach",
        "tm-attach 1 --output a/",
        "tm-attach 1 --no-such-option",
        "tm-attach 1 -- python3",
        "tm-attach --status -- python3",
        "tm-attach --",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_test_message("%s", bad[i]);
        g_assert_false(parse(bad[i]));
        g_assert_nonnull(error);
        g_assert_true(error->domain == G_OPTION_ERROR);
        g_assert_null(strchr(error->message, '\n'));
        done();
    }
}

static void test_sizes(void)
{
    const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},          {"4096", 4096},     {"1K", 1024},
                {"5M", 5 << 20},   {"5m", 5 << 20},    {"512KiB", 512 << 10},
                {"1.5G", 3 << 29}, {"2T", 2ull << 40}, {"7B", 7}};
    uint64_t bytes, ms;

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(tm_parse_size(good[i].text, &bytes));
        g_assert_cmpuint(bytes, ==, good[i].bytes);
    }
    g_assert_false(tm_parse_size("", &bytes));
    g_assert_false(tm_parse_size(" 1", &bytes));
    g_assert_false(tm_parse_size("1 M", &bytes));
    g_assert_false(tm_parse_size("nan", &bytes));
    g_assert_true(tm_parse_seconds("0.0001", &ms));
    g_assert_cmpuint(ms, ==, 1); /* never "none" by rounding */
    g_assert_true(tm_parse_seconds("0", &ms));
    g_assert_cmpuint(ms, ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/attach-options/attach", test_attach);
    g_test_add_func("/attach-options/verbs", test_verbs);
    g_test_add_func("/attach-options/launch", test_launch);
    g_test_add_func("/attach-options/usage-errors", test_usage_errors);
    g_test_add_func("/attach-options/sizes", test_sizes);
    return g_test_run();
}
