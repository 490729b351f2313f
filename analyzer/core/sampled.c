// SPDX-License-Identifier: MIT
#include "analyzer/core/sampled.h"

#include <string.h>

#include "analyzer/core/scan.h"
#include "format/sampling.h"

#define NORMAL_95 1.959964 /* 95 % of a normal distribution lie within so many deviations */

double tm_sampled_mean(const struct tms_file *file)
{
    int64_t mean_bytes = tms_file_fact_i64(file, "sample_bytes", 0);

    return mean_bytes > 0 && tms_file_fact_i64(file, "traces", 1) ? (double)mean_bytes : 0;
}

static uint64_t rounded(double value)
{
    return value < 0x1p62 ? (uint64_t)(value + 0.5) : UINT64_C(1) << 62;
}

struct tm_tally tm_sampled_scale(double mean_bytes, uint64_t size_bytes)
{
    double chance = tm_sampling_chance(size_bytes, mean_bytes);

    return (struct tm_tally){rounded((double)size_bytes / chance),
                             rounded(TM_SAMPLED_UNIT / chance)};
}

struct sums {
    const uint8_t *keep;
    double mean_bytes, variance;
    uint64_t samples;
};

static bool add_rows(void *data, const struct tm_batch *batch)
{
    struct sums *sums = data;

    for (uint32_t i = 0; i < batch->count; i++) {
        double chance, scaled;
        if (sums->keep && !sums->keep[batch->column.node[i]])
            continue;
        chance = tm_sampling_chance(batch->column.size_bytes[i], sums->mean_bytes);
        scaled = (double)batch->column.size_bytes[i] / chance;
        sums->variance += (1 - chance) * scaled * scaled;
        sums->samples++;
    }
    return true;
}

/* Of a number that is not negative; Newton's method, because the core does without libm. */
static double square_root(double value)
{
    double root = value > 1 ? value : 1;

    for (int i = 0; i < 1100; i++) {
        double next = (root + value / root) / 2;
        if (!(next < root))
            break;
        root = next;
    }
    return value > 0 ? root : 0;
}

bool tm_sampled_estimate(const struct tm_image *image, struct tm_estimate *ret,
                         struct tms_error *error)
{
    struct tm_estimate estimate = {.mean_bytes = tm_sampled_mean(image->file)};
    struct sums sums[TM_SCAN_THREADS_MAX];
    void *states[TM_SCAN_THREADS_MAX];
    double variance = 0;

    if (estimate.mean_bytes == 0) {
        *ret = estimate;
        return true;
    }
    for (unsigned i = 0; i < TM_SCAN_THREADS_MAX; i++) {
        sums[i] = (struct sums){.keep = image->keep_node, .mean_bytes = estimate.mean_bytes};
        states[i] = &sums[i];
    }
    if (!tm_scan(image->file, TM_SCAN_NODE | TM_SCAN_SIZE, add_rows, states,
                 tm_scan_threads(image->file), error))
        return false;
    for (unsigned i = 0; i < TM_SCAN_THREADS_MAX; i++) {
        variance += sums[i].variance;
        estimate.samples += sums[i].samples;
    }
    estimate.error_bytes = NORMAL_95 * square_root(variance);
    *ret = estimate;
    return true;
}

double tm_sampled_diff_error(const struct tm_estimate *a, const struct tm_estimate *b)
{
    return square_root(a->error_bytes * a->error_bytes + b->error_bytes * b->error_bytes);
}
