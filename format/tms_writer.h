// SPDX-License-Identifier: MIT
/*
 * Writer of .tms files, used by the payload (in the target), by the passive
 * reader and by tm-analyze. libc only. No malloc: all buffers are the caller's,
 * inside struct tms_writer (about 3 MiB: mmap it, do not put it on a stack).
 *
 * Use: tms_writer_init; sections in any order (traces reference nodes, nodes
 * reference sites, but a reader resolves after all are read); tms_writer_end.
 * The first error sticks and every later call does nothing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/tms.h"

#define TMS_OUT_BYTES (256u * 1024u)

struct tms_trace {
    uint64_t address;
    uint64_t size_bytes;
    uint32_t node;
    uint16_t age;
    uint8_t domain;
    uint8_t reserved;
    uint32_t type;   /* index + 1 into TMS_TYPES; 0: unknown */
    uint32_t thread; /* 0: unknown */
};

struct tms_writer {
    int fd;          /* borrowed */
    int error;       /* 0 or the errno of the first failure */
    uint64_t offset; /* bytes written so far */
    uint64_t sections, traces, traced_bytes;
    /* the section that is open */
    uint64_t section_offset, section_bytes;
    uint32_t section_type, section_crc;
    uint32_t granule_shift;
    uint32_t rows; /* in `row` */
    uint32_t out_used;
    uint8_t out[TMS_OUT_BYTES];
    struct tms_trace row[TMS_GROUP_MAX];
    uint8_t column[TMS_GROUP_MAX * 4 + TMS_GROUP_MAX / 4];
};

/* fd: a regular file opened for writing without O_APPEND, at offset 0 (section headers are patched
 * with pwrite). It stays the caller's. granule_shift: at most TMS_GRANULE_SHIFT_MAX. Writes the
 * header. */
void tms_writer_init(struct tms_writer *w, int fd, uint64_t timestamp_ns, uint32_t granule_shift);

/* One section of bytes in one or many pieces. */
void tms_writer_begin(struct tms_writer *w, enum tms_section_type type);
void tms_writer_bytes(struct tms_writer *w, const void *data, size_t n_bytes);
void tms_writer_finish(struct tms_writer *w);

/* Adds a "key=value" to the open TMS_FACTS section. */
void tms_writer_fact(struct tms_writer *w, const char *key, const char *value);
void tms_writer_fact_i64(struct tms_writer *w, const char *key, int64_t value);

/* Adds a trace to the row group that is being collected; writes the group when it is full or when
 * the address is below the previous one or too far from it. No section may be open. */
void tms_writer_trace(struct tms_writer *w, const struct tms_trace *trace);
/* Writes what is collected. Called by tms_writer_end as well. */
void tms_writer_flush_traces(struct tms_writer *w);

/* Ends the file. Returns 0 or -errno of the first failure. Does not fsync. */
int tms_writer_end(struct tms_writer *w);
