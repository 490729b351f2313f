// SPDX-License-Identifier: MIT
/* The command line of tm-attach. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum tm_verb {
    TM_VERB_ATTACH = 0,
    TM_VERB_LAUNCH, /* "-- command" */
    TM_VERB_STATUS,
    TM_VERB_SNAPSHOT,
    TM_VERB_DETACH,
    TM_VERB_CHECK, /* --dry-run */
    TM_VERB_VERSION,
};

/* A number that may be missing on the command line. */
struct tm_given {
    bool given;
    uint64_t value;
};

struct tm_attach_options {
    enum tm_verb verb;
    GArray *pids;   /* pid_t; at least one but for LAUNCH and VERSION */
    char **command; /* of LAUNCH, NULL-terminated; borrowed from argv */
    bool children;
    bool in_target;
    bool passive; /* of SNAPSHOT: without the agent */
    bool follow_fork;
    struct tm_hold *hold; /* of LAUNCH: lets go of the program before it is stopped; NULL: none */
    char *output;         /* NULL: not given */
    struct tm_given traces, traceback_limit, sample_bytes, native_depth, delay_ms, threshold_bytes,
        repeat, lifetime_ms, max_snapshots;
};

/* argv is reordered. --help prints and exits, as GOption does. Errors are G_OPTION_ERROR: exit
 * status 2. Free with tm_attach_options_done, also after a failure. */
bool tm_attach_options_parse(struct tm_attach_options *ret, int argc, char **argv, GError **error);
void tm_attach_options_done(struct tm_attach_options *options);
/* Whether any option was given that SET can change. */
bool tm_attach_options_change_anything(const struct tm_attach_options *options);

/* "0", "4096", "5M", "1.5G", "512KiB" (powers of 1024) to bytes. */
bool tm_parse_size(const char *text, uint64_t *ret_bytes);
/* "60", "0.5" seconds to milliseconds. */
bool tm_parse_seconds(const char *text, uint64_t *ret_ms);
