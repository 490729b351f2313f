// SPDX-License-Identifier: MIT
/*
 * Sums the traces of a snapshot by some noun: line, file, traceback, age ...
 * Groups are known by an id that means the same in all snapshots of one model,
 * and come sorted by it, so that comparing is one merge.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyzer/core/model.h"
#include "format/tms_reader.h"

enum tm_group_by {
    TM_BY_LINE = 0,   /* id: into model->lines */
    TM_BY_FILE,       /* id: string */
    TM_BY_FUNCTION,   /* id: into model->functions */
    TM_BY_TRACEBACK,  /* id: model's node */
    TM_BY_ADDRESS,    /* id: the address */
    TM_BY_DOMAIN,     /* id: enum tms_domain */
    TM_BY_SIZE_CLASS, /* id: largest size of the class in bytes */
    TM_BY_THREAD,     /* id: thread's id; 0: unknown */
    TM_BY_AGE,        /* id: snapshots of the session that had begun when it was allocated */
    TM_BY_TYPE,       /* id: string; 0: unknown */
    TM_BY_MODULE,     /* id: string, path of the module of the most recent frame; 0: Python's */
    TM_BY_COUNT,
};

enum tm_group_flags {
    TM_GROUP_DEFAULT = 0,
    /* Each frame of a traceback counts, as often as it occurs. Only for line, file and function,
     * and without effect where the traceback limit is below 2, as the API has it. */
    TM_GROUP_CUMULATIVE = 1u << 0,
};

struct tm_group {
    uint64_t id;
    uint64_t bytes;
    uint64_t count;
};

struct tm_groups {
    enum tm_group_by by;
    bool cumulative;
    uint64_t timestamp_ns;
    struct tm_group *items; /* owned; ascending by id */
    size_t n_items;
    uint64_t bytes; /* of all items; saturated at 2^63 - 1 where cumulative */
    uint64_t count;
};

/* What one traceback of the file holds. Where the file was sampled (analyzer/core/sampled.h) these
 * are estimates, and count is in units of 1 / TM_SAMPLED_UNIT. */
struct tm_tally {
    uint64_t bytes;
    uint64_t count;
};

/* Whether a snapshot without traces can be grouped so. */
bool tm_group_by_needs_traces(enum tm_group_by by);
/* Whether grouping so looks at frames, so that "cumulative" means something. */
bool tm_group_by_has_frames(enum tm_group_by by);

/* Groups what the image's filters keep. A snapshot without traces is grouped by its counters. Sums
 * of a sampled one are estimates of what the program held, but by address: a block is itself. On
 * failure *ret is untouched. */
bool tm_groups_make(struct tm_image *image, enum tm_group_by by, unsigned flags,
                    struct tm_groups *ret, struct tms_error *error);
/* Accepts a zeroed object. */
void tm_groups_done(struct tm_groups *groups);

/* Sums by node of the file, filters applied: n_nodes elements (at least one), freed with free().
 * NULL: error filled. */
struct tm_tally *tm_image_tally(const struct tm_image *image, struct tms_error *error);

/* What an id stands for. Fields that the grouping does not know are zero. */
struct tm_group_label {
    struct tms_str file;     /* empty: unknown */
    struct tms_str function; /* empty: unknown */
    int32_t line;            /* 0: unknown */
    uint32_t node;           /* of the model */
    uint64_t value;          /* address, domain, size, thread, age */
};
struct tm_group_label tm_group_describe(const struct tm_model *model, enum tm_group_by by,
                                        uint64_t id);
/* Order of the API's keys: by file then line, by number; negative, 0, positive. */
int tm_group_compare_ids(const struct tm_model *model, enum tm_group_by by, uint64_t a, uint64_t b);
