// SPDX-License-Identifier: MIT
/* Trends: slopes, confidence, warm-up. */
#include <glib.h>

#include "analyzer/trend.h"

static const double hours[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static void test_steady(void)
{
    const double y[] = {10, 20, 30, 40};
    TmTrend trend = tm_trend_of(hours, y, 4);

    g_assert_cmpfloat_with_epsilon(trend.slope, 10, 1e-9);
    g_assert_cmpuint(trend.rises, ==, 3);
    g_assert_cmpuint(trend.intervals, ==, 3);
    /* One of the 4! orders rises all the way. */
    g_assert_cmpfloat_with_epsilon(trend.confidence, 1 - 1 / 24.0, 1e-9);
}

static void test_falling_and_flat(void)
{
    const double falls[] = {9, 7, 5, 3, 1}, flat[] = {4, 4, 4, 4, 4};

    g_assert_cmpfloat_with_epsilon(tm_trend_of(hours, falls, 5).confidence, 0, 1e-9);
    g_assert_cmpfloat(tm_trend_of(hours, falls, 5).slope, ==, -2);
    g_assert_cmpfloat(tm_trend_of(hours, flat, 5).slope, ==, 0);
    g_assert_cmpfloat(tm_trend_of(hours, flat, 5).confidence, <=, 0.5);
}

/* Mann-Kendall's table: for n = 5, S = 6 (8 of 10 pairs rise) the chance is 0.117; for n = 6,
 * S = 11 (13 of 15) it is 0.028. */
static void test_confidence_agrees_with_the_table(void)
{
    const double five[] = {1, 2, 4, 3, 5}, five_b[] = {2, 1, 3, 5, 4};
    const double six[] = {2, 1, 3, 5, 4, 6};

    g_assert_cmpfloat_with_epsilon(tm_trend_of(hours, five, 5).confidence, 1 - 5 / 120.0, 1e-9);
    g_assert_cmpfloat_with_epsilon(tm_trend_of(hours, five_b, 5).confidence, 1 - 0.117, 1e-3);
    g_assert_cmpfloat_with_epsilon(tm_trend_of(hours, six, 6).confidence, 1 - 0.028, 1e-3);
}

static void test_normal_approximation_joins(void)
{
    double y[16];

    for (guint i = 0; i < 16; i++)
        y[i] = i;
    g_assert_cmpfloat(tm_trend_of(hours, y, 12).confidence, >, 0.9999);
    g_assert_cmpfloat(tm_trend_of(hours, y, 13).confidence, >, 0.9999);
    for (guint i = 0; i < 16; i++)
        y[i] = i % 2;
    g_assert_cmpfloat(tm_trend_of(hours, y, 16).confidence, <, 0.8);
}

static void test_outlier(void)
{
    const double y[] = {1, 2, 3, 1000, 5, 6, 7};

    g_assert_cmpfloat_with_epsilon(tm_trend_of(hours, y, 7).slope, 1, 0.01);
}

static void test_long_series_are_thinned(void)
{
    double x[500], y[500];

    for (guint i = 0; i < 500; i++) {
        x[i] = i;
        y[i] = 3.0 * i;
    }
    g_assert_cmpfloat_with_epsilon(tm_trend_of(x, y, 500).slope, 3, 1e-9);
    g_assert_cmpuint(tm_trend_of(x, y, 500).rises, ==, 499);
}

static void test_same_moment(void)
{
    const double x[] = {1, 1, 1}, y[] = {1, 2, 3};

    g_assert_cmpfloat(tm_trend_of(x, y, 3).slope, ==, 0);
}

static void test_warm_up(void)
{
    const double settles[] = {0, 900, 905, 910, 915, 920}, steady[] = {0, 5, 10, 15, 20, 25};
    const double twice[] = {0, 900, 1500, 1505, 1510, 1515}, three[] = {0, 900, 901};

    g_assert_cmpuint(tm_trend_warm_up(hours, settles, 6), ==, 1);
    g_assert_cmpuint(tm_trend_warm_up(hours, steady, 6), ==, 0);
    g_assert_cmpuint(tm_trend_warm_up(hours, twice, 6), ==, 2);
    g_assert_cmpuint(tm_trend_warm_up(hours, three, 3), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/analyzer/trend/steady", test_steady);
    g_test_add_func("/analyzer/trend/falling-and-flat", test_falling_and_flat);
    g_test_add_func("/analyzer/trend/confidence", test_confidence_agrees_with_the_table);
    g_test_add_func("/analyzer/trend/normal-approximation", test_normal_approximation_joins);
    g_test_add_func("/analyzer/trend/outlier", test_outlier);
    g_test_add_func("/analyzer/trend/long-series", test_long_series_are_thinned);
    g_test_add_func("/analyzer/trend/same-moment", test_same_moment);
    g_test_add_func("/analyzer/trend/warm-up", test_warm_up);
    return g_test_run();
}
