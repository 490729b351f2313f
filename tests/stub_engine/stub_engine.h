// SPDX-License-Identifier: MIT
/* What a test tells the stub engine, and what it learns from it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "payload/tracer.h"

struct tm_stub_engine {
    bool no_python, finalizing, inert, enabled;
    int setup_status, enable_status, snapshot_status;
    unsigned gil_wait_ms;
    _Atomic unsigned gil_taken, gil_dropped;
    uint32_t traceback_limit;
    size_t filters_count;
    struct tm_restarts restarts;
    unsigned trims;
    struct tm_totals totals;
    int window_fd;
    uint64_t window_low_bytes, window_high_bytes;
};

extern struct tm_stub_engine tm_stub;

/* What one thread did before is seen by the other after: the sockets between test and agent do
 * that in truth, but a thread sanitizer does not follow descriptors that travel. */
void tm_stub_fence(void);

/* As if the program's allocations had brought the total there: wakes the agent by the window. */
void tm_stub_move_memory(uint64_t traced_bytes);
