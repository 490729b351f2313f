// SPDX-License-Identifier: MIT
/* Whether a series of numbers grows, how fast, and how sure that is. Robust: one odd snapshot does
 * not decide. */
#pragma once

#include <glib.h>

typedef struct {
    double slope;      /* Theil and Sen: the median of the slopes of all pairs, per unit of x */
    double confidence; /* Mann and Kendall, one-sided: 1 - the chance that values in random order
                          rise at least so consistently; 0.5 and below: no growth */
    guint rises;       /* intervals in which the value grew */
    guint intervals;
} TmTrend;

/* n values y at ascending x; n >= 2. */
TmTrend tm_trend_of(const double *x, const double *y, guint n);

/* How many values from the begin are warm-up: their intervals change more than `TM_WARM_UP_FACTOR`
 * times as fast as the median of the intervals after them. At least 3 values, and two thirds of
 * all, stay. */
#define TM_WARM_UP_FACTOR 4.0
guint tm_trend_warm_up(const double *x, const double *y, guint n);
