// SPDX-License-Identifier: MIT
/*
 * What a client asks for with START and SET: see docs/PROTOCOL.md for the keys.
 *
 * Agent thread only. Allocates nothing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/control.h"
#include "payload/filter.h"

#define TM_OUTPUT_TEMPLATE_BYTES 1024
#define TM_OPTION_FILTERS_MAX 256

struct tm_options {
    bool with_traces;
    bool in_target;           /* no directory from the client: the target's own view */
    bool follow_fork;         /* children are traced as well */
    uint32_t traceback_limit; /* frames */
    uint64_t sample_bytes;    /* 0: every block */
    uint64_t native_depth;    /* native frames; 0: none */
    uint64_t delay_ms;        /* 0: none */
    uint64_t threshold_bytes; /* 0: none */
    uint64_t repeat;          /* 0: no end */
    uint64_t lifetime_ms;     /* 0: no end */
    uint64_t max_snapshots;   /* 0: no end */
    uint64_t shown_pid;       /* what $pid stands for: the number the user knows; 0: getpid() */
    int64_t utc_offset_s;     /* what $timestamp is in: the user's local time */
    char output[TM_OUTPUT_TEMPLATE_BYTES];
};

/* The keys filters (how many; absent: they stay as they are) and filter0, filter1, ..., each
 * "KIND:LINE:PATTERN": KIND include, exclude, include-traceback or exclude-traceback; LINE 0: any.
 * The patterns are borrowed from the message. */
struct tm_option_filters {
    bool given;
    uint32_t count;
    struct tm_filter_spec specs[TM_OPTION_FILTERS_MAX];
};
bool tm_options_parse_filters(struct tm_option_filters *ret, const struct tm_msg_buf *msg,
                              char *message, size_t message_bytes);

/* Traces, one frame, 60 s, 5 MiB, tracemalloc-$pid-$counter.tms. */
void tm_options_init(struct tm_options *options);
/* Changes the options whose keys the message has. False with a one-line message where a value is
 * bad; *options is then untouched. */
bool tm_options_parse(struct tm_options *options, const struct tm_msg_buf *msg, char *message,
                      size_t message_bytes);
