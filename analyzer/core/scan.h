// SPDX-License-Identifier: MIT
/*
 * Runs over all traces of a snapshot, row group by row group, on as many
 * threads as pay. Only the columns asked for are decoded.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "format/tms_reader.h"

enum tm_scan_columns {
    TM_SCAN_ADDRESS = 1u << 0,
    TM_SCAN_NODE = 1u << 1,
    TM_SCAN_SIZE = 1u << 2,
    TM_SCAN_DOMAIN = 1u << 3,
    TM_SCAN_AGE = 1u << 4,
    TM_SCAN_TYPE = 1u << 5,
    TM_SCAN_THREAD = 1u << 6,
};

#define TM_SCAN_THREADS_MAX 16u

struct tm_batch {
    struct tm_columns_view {
        const uint64_t *address;
        const uint32_t *node;
        const uint64_t *size_bytes;
        const uint8_t *domain;
        const uint32_t *age;
        const uint32_t *type;
        const uint32_t *thread;
    } column; /* NULL where not asked for */
    uint32_t count;
    uint64_t first_row;       /* number of the first trace in the file */
    double sample_mean_bytes; /* tm_sampled_mean of the file */
};

/* Called on a worker's thread with that worker's state; false stops the scan (no memory). */
typedef bool (*tm_scan_rows)(void *state, const struct tm_batch *batch);

/* How many workers a scan of the file will use at most: as many states must be given. */
unsigned tm_scan_threads(const struct tms_file *file);

/* Checks on the way that the sizes sum to less than 2^63, so that nobody after it has to. */
bool tm_scan(const struct tms_file *file, unsigned columns, tm_scan_rows rows, void *const *states,
             unsigned n_states, struct tms_error *error);
