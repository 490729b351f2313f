// SPDX-License-Identifier: MIT
/*
 * Writes what the engine knows at one moment into a .tms file. Runs on the
 * agent's thread (or any that holds no GIL): takes the GIL for moments, never
 * while it writes.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct tm_snapshot_options {
    int with_traces;    /* 1: every trace; 0: counters per site only */
    uint32_t counter;   /* of the session, from 1 */
    const char *reason; /* see TMS_FACTS in format/tms.h */
};

struct tm_snapshot_result {
    uint64_t traces, traced_bytes, file_bytes;
    uint64_t pause_ns; /* the longest time that the GIL was held for it */
    char message[256]; /* of a failure */
};

/* In a forked child: forgets the snapshot that the parent was writing. */
void tm_snapshot_abandon(void);

/* One at a time: a second caller waits. fd: an empty regular file open for writing, borrowed;
 * naming, flushing and renaming are the caller's. 0 or -errno (with message). -ENODEV: tracing is
 * off. */
int tm_snapshot_write(int fd, const struct tm_snapshot_options *options,
                      struct tm_snapshot_result *ret);
