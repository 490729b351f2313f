// SPDX-License-Identifier: MIT
/*
 * Reader of .tms files. libc only, so that the payload's Python module can use
 * it as well. The file is mapped read-only; fixed-width sections are borrowed
 * from the mapping, trace columns are decoded group by group. Nothing in the
 * file is trusted: every length, offset and id is checked when the file is
 * opened or (columns) when a group is decoded.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/tms.h"

enum tms_error_code {
    TMS_E_OK = 0,
    TMS_E_IO,        /* cannot be opened, read or mapped; errno in sys_errno */
    TMS_E_NOT_TMS,   /* no magic: a foreign file */
    TMS_E_VERSION,   /* written by a newer tm */
    TMS_E_TRUNCATED, /* ends before its end section */
    TMS_E_CORRUPT,   /* checksum or contents contradict */
    TMS_E_MEMORY,
};

struct tms_error {
    enum tms_error_code code;
    int sys_errno;
    uint64_t offset;   /* byte in the file where the reader stumbled */
    char message[256]; /* one line without the file's name */
};

struct tms_group {
    const struct tms_traces *head; /* borrowed from the mapping */
    const uint8_t *columns;
};

struct tms_str {
    const char *bytes; /* not NUL-terminated; UTF-8, surrogates as in CPython's surrogatepass */
    size_t n_bytes;
};

struct tms_file {
    const uint8_t *map;
    size_t map_bytes;
    uint64_t timestamp_ns;
    /* borrowed from the mapping; counts are of elements */
    const char *facts;
    size_t facts_bytes;
    uint32_t n_strings;
    const uint32_t *string_ends;
    const char *string_bytes;
    const struct tms_site *sites;
    uint32_t n_sites;
    const struct tms_node *nodes;
    uint32_t n_nodes;
    const struct tms_stat *stats;
    uint32_t n_stats;
    const struct tms_metric *metrics;
    uint32_t n_metrics;
    const struct tms_module *modules;
    uint32_t n_modules;
    const uint32_t *types;
    uint32_t n_types;
    /* owned */
    bool mapped; /* `map` is to be unmapped; false: it belongs to the caller */
    struct tms_group *groups;
    uint32_t n_groups;
    struct tms_end end;
};

/* Opens and checks a whole file. TMS_OPEN_NO_CHECKSUMS skips the CRCs of trace groups (they are
 * then checked by tms_group_check). On failure *file is zeroed and *error is filled. */
enum tms_open_flags { TMS_OPEN_DEFAULT = 0, TMS_OPEN_NO_CHECKSUMS = 1 };
bool tms_file_open(struct tms_file *file, const char *path, int flags, struct tms_error *error);
/* The same from memory that outlives the file object (fuzzing, tests); 8-byte aligned. */
bool tms_file_open_memory(struct tms_file *file, const void *data, size_t n_bytes, int flags,
                          struct tms_error *error);
/* Accepts a zeroed object. */
void tms_file_close(struct tms_file *file);

/* Value of a fact, NUL-terminated, borrowed; NULL where there is none. */
const char *tms_file_fact(const struct tms_file *file, const char *key);
/* Fact as a number, or `missing`. */
int64_t tms_file_fact_i64(const struct tms_file *file, const char *key, int64_t missing);
/* Empty where id is TMS_NO_ID. */
struct tms_str tms_file_string(const struct tms_file *file, uint32_t id);

/* Decoded columns of one group; the arrays are the caller's, TMS_GROUP_MAX elements each. A NULL
 * pointer skips that column. */
struct tms_columns {
    uint64_t *address;
    uint32_t *node;
    uint64_t *size_bytes;
    uint8_t *domain;
    uint32_t *age;
    uint32_t *type;
    uint32_t *thread;
};
/* Checks that node ids are below n_nodes, domains and types are known, sizes of the columns agree.
 */
bool tms_group_decode(const struct tms_file *file, uint32_t group, const struct tms_columns *ret,
                      struct tms_error *error);
bool tms_group_check(const struct tms_file *file, uint32_t group, struct tms_error *error);
