// SPDX-License-Identifier: MIT
/*
 * Snapshots that were taken with --sample: what a trace of one stands for, and
 * how far the sums may be off. libc only.
 *
 * The sums are Horvitz-Thompson estimates: each trace counts 1 / chance times,
 * where chance is its own of having been kept, which makes them unbiased. Their
 * variance is estimated without bias, too: sum of (1 - chance) * (size / chance)^2.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "analyzer/core/grouping.h"
#include "analyzer/core/model.h"

/* Counts of sampled traces are kept in units of 1 / TM_SAMPLED_UNIT, so that rounding of each does
 * not add up. */
#define TM_SAMPLED_UNIT 256u

/* The mean distance of samples in bytes; 0: every block was recorded, or the file has no traces
 * (its counters are scaled already). */
double tm_sampled_mean(const struct tms_file *file);

struct tm_tally tm_sampled_scale(double mean_bytes, uint64_t size_bytes);

/* What a trace of this size adds to a sum. mean_bytes 0: itself, and 1. */
static inline struct tm_tally tm_sampled_weight(double mean_bytes, uint64_t size_bytes)
{
    return mean_bytes == 0 ? (struct tm_tally){size_bytes, 1}
                           : tm_sampled_scale(mean_bytes, size_bytes);
}

struct tm_estimate {
    double mean_bytes;  /* 0: not an estimate; the others are 0 then */
    uint64_t samples;   /* blocks that were recorded */
    double error_bytes; /* of the sum of sizes: 95 % of such estimates are off by less */
};

/* How good the sum of all traces is that the image's filters keep. False: error filled. */
bool tm_sampled_estimate(const struct tm_image *image, struct tm_estimate *ret,
                         struct tms_error *error);

/* Of the difference of two sums. Most blocks are in both as a rule and their errors are the same:
 * this takes them as independent and is on the safe side. */
double tm_sampled_diff_error(const struct tm_estimate *a, const struct tm_estimate *b);
