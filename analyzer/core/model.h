// SPDX-License-Identifier: MIT
/*
 * What all snapshots of one run of the analyzer have in common: strings,
 * sites and tracebacks under ids that mean the same in each of them. Files are
 * mapped in once (struct tm_image); from then on only integers are compared.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "analyzer/core/intern.h"
#include "format/tms_reader.h"

/* String 0 is empty and stands for "unknown" as well: the API compares None as ''. */
#define TM_MODEL_NO_STRING 0u
/* Site 0 is the unknown one: no file, no line. */
#define TM_MODEL_NO_SITE 0u
/* Node 0 is the empty traceback. */
#define TM_MODEL_EMPTY 0u

struct tm_model_site {
    uint32_t file;     /* string; 0: unknown */
    uint32_t function; /* string; 0: unknown */
    int32_t line;      /* 0: unknown */
    uint32_t kind;     /* enum tms_site_kind */
    uint64_t address;  /* native frames only */
    int32_t first_line;
    uint32_t module; /* string, path of the module of a native frame; 0: none */
};

struct tm_model_node {
    uint32_t parent; /* node; of node 0: TMS_NO_ID */
    uint32_t site;   /* the most recent frame */
};

struct tm_model {
    struct tm_intern strings;   /* struct tms_str, borrowed from the files */
    struct tm_intern sites;     /* struct tm_model_site */
    struct tm_intern nodes;     /* struct tm_model_node */
    struct tm_intern lines;     /* key of grouping by line: file << 32 | line */
    struct tm_intern functions; /* key of grouping by function: file << 32 | function */
    uint32_t *line_of_site;     /* site -> id in `lines`, for the first n_keyed sites */
    uint32_t *function_of_site; /* a native function is known by its module, not its source */
    uint8_t *is_allocator;      /* site -> 1: a native frame of one of Python's own allocators */
    uint32_t n_keyed;
};

bool tm_model_init(struct tm_model *model);
/* Accepts a zeroed object. */
void tm_model_done(struct tm_model *model);

static inline struct tms_str tm_model_string(const struct tm_model *model, uint32_t id)
{
    return ((const struct tms_str *)model->strings.items)[id];
}

static inline const struct tm_model_site *tm_model_site(const struct tm_model *model, uint32_t id)
{
    return (const struct tm_model_site *)model->sites.items + id;
}

static inline const struct tm_model_node *tm_model_node(const struct tm_model *model, uint32_t id)
{
    return (const struct tm_model_node *)model->nodes.items + id;
}

/* Fills line_of_site, function_of_site and is_allocator for every site known by now. False: no
 * memory. */
bool tm_model_key_sites(struct tm_model *model);

/* One snapshot, expressed in the model's ids. */
struct tm_image {
    struct tm_model *model;      /* borrowed */
    const struct tms_file *file; /* borrowed */
    uint32_t *string_map;        /* file's string id -> model's */
    uint32_t *site_map;          /* file's site id -> model's */
    /* A native frame may stand for several, where functions were inlined: site_map has the
     * innermost one, these the others, outermost first: outer[outer_start[site]] up to
     * outer[outer_start[site + 1]]. NULL: there are none. Owned. */
    uint32_t *outer_start, *outer;
    uint32_t *node_map; /* file's node id -> model's; NULL until tm_image_map_nodes */
    uint8_t *keep_node; /* file's node id -> 1: the filters keep it; NULL: all kept */
    uint8_t *keep_stat; /* the same by index of file->stats */
};

/* Both objects must outlive the image. False: no memory. */
bool tm_image_init(struct tm_image *image, struct tm_model *model, const struct tms_file *file);
void tm_image_done(struct tm_image *image);
/* Needed for grouping by traceback and for whoever walks the model's nodes. Idempotent. */
bool tm_image_map_nodes(struct tm_image *image);

/* The site that stands for a node of the file where memory is said to be of one line or file: the
 * most recent Python frame where there is one, whatever native frames it called. */
uint32_t tm_image_python_site(const struct tm_image *image, uint32_t node);
/* The same of one function or module: the most recent frame, native or not, that is none of
 * Python's allocators, where every block comes from. After tm_model_key_sites. */
uint32_t tm_image_calling_site(const struct tm_image *image, uint32_t node);
bool tm_image_node_is_native(const struct tm_image *image, uint32_t node);

/* Whether the snapshot holds traces; one without holds counters by site only. */
bool tm_image_has_traces(const struct tm_image *image);
/* Frames kept by traceback when the snapshot was taken; 1 where it does not say. */
int64_t tm_image_traceback_limit(const struct tm_image *image);
