// SPDX-License-Identifier: MIT
/* Interning, sums by key, differences: the parts of the grouping core that need no file. */
#include <glib.h>
#include <stdlib.h>

#include "analyzer/core/bucket.h"
#include "analyzer/core/compare.h"
#include "analyzer/core/intern.h"

static void test_intern(void)
{
    struct tm_intern table;

    tm_intern_init(&table, sizeof(guint64));
    for (guint round = 0; round < 2; round++) {
        for (guint64 i = 0; i < 100000; i++) {
            guint64 item = i * 0x10001;
            g_assert_cmpuint(tm_intern_get(&table, &item), ==, i);
        }
    }
    g_assert_cmpuint(table.count, ==, 100000);
    tm_intern_done(&table);
}

static void test_intern_strings(void)
{
    struct tm_intern table;
    const struct tms_str a = {"abc", 3}, same = {"abcd", 3}, empty = {"", 0}, b = {"ab\0", 3};

    tm_intern_init_strings(&table);
    g_assert_cmpuint(tm_intern_get(&table, &a), ==, 0);
    g_assert_cmpuint(tm_intern_get(&table, &same), ==, 0);
    g_assert_cmpuint(tm_intern_get(&table, &empty), ==, 1);
    g_assert_cmpuint(tm_intern_get(&table, &b), ==, 2);
    tm_intern_done(&table);
}

static int compare_ids(const void *a, const void *b)
{
    guint64 x = ((const struct tm_group *)a)->id, y = ((const struct tm_group *)b)->id;
    return (x > y) - (x < y);
}

static void test_buckets(void)
{
    struct tm_buckets buckets = {0}, more = {0};
    struct tm_group *items;
    size_t n;

    for (guint64 i = 0; i < 5000; i++)
        g_assert_true(tm_buckets_add(&buckets, i % 1000 * 0x100000001, i, 1));
    g_assert_true(tm_buckets_add(&more, 0, 7, 1));
    g_assert_true(tm_buckets_add(&more, 12345, 8, 2));
    g_assert_true(tm_buckets_merge(&buckets, &more));
    items = tm_buckets_steal(&buckets, &n);
    g_assert_cmpuint(n, ==, 1001);
    qsort(items, n, sizeof *items, compare_ids);
    g_assert_cmpuint(items[0].bytes, ==, 0 + 1000 + 2000 + 3000 + 4000 + 7);
    g_assert_cmpuint(items[0].count, ==, 6);
    g_assert_cmpuint(items[1].id, ==, 12345);
    free(items);
    tm_buckets_done(&more);
    g_assert_nonnull(items = tm_buckets_steal(&more, &n));
    g_assert_cmpuint(n, ==, 0);
    free(items);
}

static struct tm_groups groups_of(struct tm_group *items, size_t n)
{
    return (struct tm_groups){.by = TM_BY_ADDRESS, .items = items, .n_items = n};
}

static void test_diff(void)
{
    struct tm_group before[] = {{1, 100, 1}, {2, 50, 2}, {4, 10, 1}};
    struct tm_group after[] = {{2, 80, 3}, {3, 5, 1}, {4, 10, 1}};
    struct tm_groups old = groups_of(before, 3), new = groups_of(after, 3);
    struct tm_diff diff;

    g_assert_true(tm_diff_make(NULL, &old, &new, 100, &diff));
    g_assert_cmpuint(diff.n_rows, ==, 4);
    g_assert_cmpuint(diff.rows[0].id, ==, 1); /* Gone: -100. */
    g_assert_cmpint(diff.rows[0].size_diff, ==, -100);
    g_assert_cmpint(diff.rows[0].count_diff, ==, -1);
    g_assert_cmpuint(diff.rows[0].size, ==, 0);
    g_assert_cmpuint(diff.rows[1].id, ==, 2);
    g_assert_cmpint(diff.rows[1].size_diff, ==, 30);
    g_assert_cmpuint(diff.rows[2].id, ==, 3);
    g_assert_cmpuint(diff.rows[3].id, ==, 4);
    g_assert_cmpint(diff.total.size_diff, ==, 95 - 160);
    g_assert_cmpuint(diff.total.count, ==, 5);
    g_assert_cmpuint(diff.rest.size, ==, 0);
    tm_diff_done(&diff);
}

static void test_diff_without_old(void)
{
    struct tm_group after[] = {{2, 80, 3}, {3, 90, 1}};
    struct tm_groups new = groups_of(after, 2);
    struct tm_diff diff;

    g_assert_true(tm_diff_make(NULL, NULL, &new, 1, &diff));
    g_assert_cmpuint(diff.n_groups, ==, 2);
    g_assert_cmpuint(diff.rows[0].id, ==, 3);
    g_assert_cmpint(diff.rows[0].size_diff, ==, 0);
    g_assert_cmpuint(diff.rest.size, ==, 80);
    g_assert_cmpuint(diff.rest.count, ==, 3);
    tm_diff_done(&diff);
    g_assert_true(tm_diff_make(NULL, NULL, &new, 0, &diff));
    g_assert_cmpuint(diff.n_rows, ==, 0);
    g_assert_cmpuint(diff.rest.size, ==, 170);
    tm_diff_done(&diff);
}

/* The bounded selection gives what sorting all would. */
static void test_limits_agree(void)
{
    enum { N = 2000 };
    g_autofree struct tm_group *before = g_new0(struct tm_group, N),
                               *after = g_new0(struct tm_group, N);
    struct tm_groups old, new;
    struct tm_diff all;
    GRand *rand = g_rand_new_with_seed(1);

    for (guint i = 0; i < N; i++) {
        before[i] = (struct tm_group){i * 2, (guint64)g_rand_int_range(rand, 0, 50), 1};
        after[i] = (struct tm_group){i * 3, (guint64)g_rand_int_range(rand, 0, 50), 1};
    }
    g_rand_free(rand);
    old = groups_of(before, N);
    new = groups_of(after, N);
    g_assert_true(tm_diff_make(NULL, &old, &new, SIZE_MAX, &all));
    for (size_t limit = 1; limit < 3000; limit = limit * 3 + 1) {
        struct tm_diff some;
        g_assert_true(tm_diff_make(NULL, &old, &new, limit, &some));
        g_assert_cmpuint(some.n_rows, ==, MIN(limit, all.n_rows));
        for (size_t i = 0; i < some.n_rows; i++)
            g_assert_cmpuint(some.rows[i].id, ==, all.rows[i].id);
        tm_diff_done(&some);
    }
    tm_diff_done(&all);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/analyzer/intern/items", test_intern);
    g_test_add_func("/analyzer/intern/strings", test_intern_strings);
    g_test_add_func("/analyzer/buckets", test_buckets);
    g_test_add_func("/analyzer/compare/diff", test_diff);
    g_test_add_func("/analyzer/compare/without-old", test_diff_without_old);
    g_test_add_func("/analyzer/compare/limits", test_limits_agree);
    return g_test_run();
}
