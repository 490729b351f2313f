// SPDX-License-Identifier: MIT
/* Filters: the semantics that the API's document and its behaviours give. */
#include <glib.h>
#include <string.h>

#include "analyzer/core/filter.h"

static struct tms_str str(const char *text)
{
    return (struct tms_str){text, text ? strlen(text) : 0};
}

static gboolean matches(const char *pattern, const char *name)
{
    struct tm_filter filter;
    gboolean result;

    g_assert_cmpint(tm_filter_init(&filter, TM_FILTER_INCLUDE, pattern, strlen(pattern), 0), ==,
                    TM_FILTER_OK);
    result = tm_filter_pattern_matches(&filter, str(name));
    tm_filter_done(&filter);
    return result;
}

static void test_patterns(void)
{
    g_assert_true(matches("a.py", "a.py"));
    g_assert_false(matches("a.py", "x/a.py"));
    g_assert_false(matches("a.py", "x/a.pyc"));
    g_assert_false(matches("a.py", "A.py"));
    g_assert_true(matches("", ""));
    g_assert_false(matches("", "a"));
    g_assert_true(matches("*", ""));
    g_assert_true(matches("*", "anything"));
    g_assert_true(matches("a*", "a"));
    g_assert_true(matches("*a", "a"));
    g_assert_true(matches("a*b", "ab"));
    g_assert_false(matches("a*a", "a"));
    g_assert_true(matches("a*b*c", "a-b-b-c"));
    g_assert_false(matches("a*b*c", "a-c-b"));
    g_assert_true(matches("*.py", "/usr/lib/x.py"));
    g_assert_true(matches("*ab", "aab"));
    g_assert_true(matches("*aab*", "aaab"));
    g_assert_true(matches("a**b", "axxb"));
}

static void test_compiled_names(void)
{
    g_assert_true(matches("a.pyc", "a.py"));
    g_assert_true(matches("a.py", "a.pyc"));
    g_assert_true(matches("a.pyo", "a.pyc"));
    g_assert_true(matches("*.pyc", "dir/a.py"));
    g_assert_false(matches("a.pyx", "a.py"));
    g_assert_true(matches(".pyc", ".py"));
    g_assert_false(matches("pyc", "py"));
}

static void test_jokers(void)
{
    struct tm_filter filter;
    g_autofree char *stars = g_strnfill(1000000, '*');
    g_autoptr(GString) many = g_string_new(NULL);
    g_autofree char *name = g_strnfill(100000, 'a');

    g_assert_cmpint(tm_filter_init(&filter, 0, stars, 1000000, 0), ==, TM_FILTER_OK);
    g_assert_cmpstr(filter.pattern, ==, "*");
    tm_filter_done(&filter);
    for (guint i = 0; i < TM_FILTER_JOKERS_MAX; i++)
        g_string_append(many, "*a");
    g_string_append_c(many, 'b');
    g_assert_cmpint(tm_filter_init(&filter, 0, many->str, many->len, 0), ==, TM_FILTER_OK);
    /* Backtracking would not come back from this. */
    g_assert_false(tm_filter_pattern_matches(&filter, str(name)));
    tm_filter_done(&filter);
    g_string_append_c(many, '*');
    g_assert_cmpint(tm_filter_init(&filter, 0, many->str, many->len, 0), ==,
                    TM_FILTER_TOO_MANY_JOKERS);
}

static gboolean keeps(unsigned flags, gint32 filter_line, const char *name, gint32 line)
{
    struct tm_filter filter;
    gboolean result;

    g_assert_cmpint(tm_filter_init(&filter, flags, "a.py", 4, filter_line), ==, TM_FILTER_OK);
    result = tm_filter_keeps(&filter, str(name), line);
    tm_filter_done(&filter);
    return result;
}

static void test_keeps(void)
{
    g_assert_true(keeps(TM_FILTER_INCLUDE, 0, "a.py", 5));
    g_assert_true(keeps(TM_FILTER_INCLUDE, -3, "a.py", 5));
    g_assert_true(keeps(TM_FILTER_INCLUDE, 5, "a.py", 5));
    g_assert_false(keeps(TM_FILTER_INCLUDE, 6, "a.py", 5));
    g_assert_false(keeps(TM_FILTER_INCLUDE, 5, "a.py", 0));
    g_assert_true(keeps(TM_FILTER_EXCLUDE, 5, "a.py", 0));
    g_assert_false(keeps(TM_FILTER_EXCLUDE, 0, "a.py", 0));
    g_assert_false(keeps(TM_FILTER_INCLUDE, 0, NULL, 5));
    g_assert_true(keeps(TM_FILTER_EXCLUDE, 0, NULL, 5));
    g_assert_true(keeps(TM_FILTER_EXCLUDE, 0, "b.py", 5));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/analyzer/filter/patterns", test_patterns);
    g_test_add_func("/analyzer/filter/compiled-names", test_compiled_names);
    g_test_add_func("/analyzer/filter/jokers", test_jokers);
    g_test_add_func("/analyzer/filter/keeps", test_keeps);
    return g_test_run();
}
