// SPDX-License-Identifier: MIT
/* Trends of series. */
#include "analyzer/trend.h"

#include <math.h>
#include <stdlib.h>

/* Beyond so many values the normal approximation is as good as the exact distribution. */
#define EXACT_MAX 12
/* Pairs are n * (n - 1) / 2; a longer series is thinned, ends included. */
#define VALUES_MAX 64

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, guint n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Chance that n values in random order have at least so many rising pairs: permutations are
 * counted by their number of inversions (the Mahonian numbers). */
static double exact_chance(guint n, guint rising)
{
    double ways[EXACT_MAX * (EXACT_MAX - 1) / 2 + 1] = {1}, total = 1, tail = 0;
    guint most = 0;

    for (guint k = 2; k <= n; k++) {
        most += k - 1;
        total *= k;
        /* Backwards, as each sum needs the old values below. */
        for (guint i = most + 1; i-- > 0;) {
            double sum = 0;
            for (guint j = 0; j < k && j <= i; j++)
                sum += i - j <= most - (k - 1) ? ways[i - j] : 0;
            ways[i] = sum;
        }
    }
    for (guint i = rising; i <= most; i++)
        tail += ways[i];
    return tail / total;
}

static double normal_chance(guint n, double score)
{
    double variance = (double)n * (n - 1) * (2.0 * n + 5) / 18;
    double z = score > 0   ? (score - 1) / sqrt(variance)
               : score < 0 ? (score + 1) / sqrt(variance)
                           : 0;

    return erfc(z / sqrt(2)) / 2;
}

static double confidence(const double *y, guint n)
{
    guint pairs = n * (n - 1) / 2;
    gint64 score = 0;

    for (guint i = 0; i < n; i++) {
        for (guint j = i + 1; j < n; j++)
            score += (y[j] > y[i]) - (y[j] < y[i]);
    }
    if (n > EXACT_MAX)
        return 1 - normal_chance(n, (double)score);
    /* A tie is half a rise, rounded down: doubt speaks against growth. */
    return 1 - exact_chance(n, (guint)((gint64)pairs + score) / 2);
}

static double slope(const double *x, const double *y, guint n)
{
    double slopes[VALUES_MAX * (VALUES_MAX - 1) / 2];
    guint n_slopes = 0;

    for (guint i = 0; i < n; i++) {
        for (guint j = i + 1; j < n; j++) {
            if (x[j] > x[i])
                slopes[n_slopes++] = (y[j] - y[i]) / (x[j] - x[i]);
        }
    }
    return n_slopes ? median(slopes, n_slopes) : 0;
}

TmTrend tm_trend_of(const double *x, const double *y, guint n)
{
    TmTrend trend = {.intervals = n - 1};
    double thin_x[VALUES_MAX] = {0}, thin_y[VALUES_MAX] = {0};
    guint n_thin = MIN(n, VALUES_MAX);

    for (guint i = 1; i < n; i++)
        trend.rises += y[i] > y[i - 1];
    for (guint i = 0; i < n_thin; i++) {
        guint from = n_thin == n ? i : (guint)((guint64)i * (n - 1) / (n_thin - 1));
        thin_x[i] = x[from];
        thin_y[i] = y[from];
    }
    trend.slope = slope(thin_x, thin_y, n_thin);
    trend.confidence = confidence(thin_y, n_thin);
    return trend;
}

static double rate(const double *x, const double *y, guint i)
{
    return x[i + 1] > x[i] ? fabs(y[i + 1] - y[i]) / (x[i + 1] - x[i]) : 0;
}

guint tm_trend_warm_up(const double *x, const double *y, guint n)
{
    guint most = n / 3, skip = 0;
    g_autofree double *rates = g_new(double, n);

    while (skip < most && n - skip > 3) {
        guint n_rates = 0;
        for (guint i = skip + 1; i + 1 < n; i++)
            rates[n_rates++] = rate(x, y, i);
        if (rate(x, y, skip) <= TM_WARM_UP_FACTOR * median(rates, n_rates))
            break;
        skip++;
    }
    return skip;
}
