// SPDX-License-Identifier: MIT
/*
 * Poisson sampling by bytes, as the payload samples and readers of a snapshot
 * scale it back: every byte is a sample with the same small probability, so that
 * a block of s bytes (one of 0 bytes counts as 1) is kept with a chance of
 * 1 - exp(-s / mean). A kept block stands for 1 / chance blocks like it.
 */
#pragma once

#include <stdint.h>

/* exp(-x) for x >= 0 without libm: halve x until the series converges, then square back. */
static inline double tm_sampling_exp_minus(double x)
{
    int halvings = 0;
    for (; x > 0.5 && halvings < 12; halvings++)
        x /= 2;
    if (x > 0.5)
        return 0;
    double term = 1, sum = 1;
    for (int k = 1; k < 16; k++) {
        term *= -x / k;
        sum += term;
    }
    while (halvings-- > 0)
        sum *= sum;
    return sum;
}

static inline double tm_sampling_chance(uint64_t size_bytes, double mean_bytes)
{
    double x = (size_bytes ? (double)size_bytes : 1) / mean_bytes;
    /* 1 - exp(-x) loses its digits for a small x; there the series is exact enough. */
    return x < 1e-4 ? x - x * x / 2 : 1 - tm_sampling_exp_minus(x);
}
