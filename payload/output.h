// SPDX-License-Identifier: MIT
/*
 * Where snapshots go: a directory, a template for names, and the way a file
 * appears there. A reader never sees half a file, a failure leaves none, and
 * nobody's file is overwritten: an existing name is skipped where the template
 * has a $counter, replaced only where this session itself wrote it, and an
 * error otherwise.
 *
 * Agent thread only, without the GIL. Allocates nothing.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "payload/options.h"
#include "payload/ownfd.h"
#include "payload/snapshot.h"

#define TM_OUTPUT_PATH_BYTES (2 * TM_OUTPUT_TEMPLATE_BYTES)

struct tm_output {
    struct tm_ownfd directory; /* names are relative to it; none: the target's own view */
    char template[TM_OUTPUT_TEMPLATE_BYTES];
    uint64_t shown_pid;
    int64_t utc_offset_s;
    uint64_t counter; /* the last one that was used */
    bool anonymous;   /* unnamed files can be linked in here */
    bool has_last;    /* last_device and last_inode are the file written last */
    uint64_t last_device, last_inode;
};

struct tm_output_result {
    char file[TM_OUTPUT_PATH_BYTES]; /* relative to the directory, or absolute */
    struct tm_snapshot_result snapshot;
    char message[320]; /* of a failure, one line */
};

void tm_output_init(struct tm_output *output);
void tm_output_done(struct tm_output *output);
/* Takes directory_fd over (-1: the directory stays, or is the target's own view with in_target)
 * and the names from the options, and tries a file there. 0 or -errno with a message; *output is
 * then untouched and the descriptor closed. */
int tm_output_configure(struct tm_output *output, const struct tm_options *options,
                        int directory_fd, char *message, size_t message_bytes);
/* Writes one snapshot under the next name. 0 or -errno with ret->message. */
int tm_output_write(struct tm_output *output, const struct tm_snapshot_options *options,
                    struct tm_output_result *ret);
/* The name that a snapshot would get now: taken ones are skipped, as the write will do. */
bool tm_output_next_name(const struct tm_output *output, char *ret, size_t ret_bytes);
