// SPDX-License-Identifier: MIT
/*
 * A small snapshot file that has every section and every form of a column, for
 * tests of the reader and as a seed of its fuzzer. Its contents are the same
 * each time.
 */
#pragma once

/* Of which forms the sample consists. */
enum tms_sample_kind {
    TMS_SAMPLE_EMPTY,  /* header and end */
    TMS_SAMPLE_STATS,  /* no traces */
    TMS_SAMPLE_TRACES, /* traces without ages, types, threads; one size needs 64 bits */
    TMS_SAMPLE_FULL,   /* everything, and a section of an unknown type */
    TMS_SAMPLE_KINDS,
};

#define TMS_SAMPLE_TIMESTAMP_NS 1700000000123456789u
/* Traces of TMS_SAMPLE_FULL. */
#define TMS_SAMPLE_TRACES_COUNT 23u

/* Writes the sample to fd as tms_writer_init asks for. Returns 0 or -errno. */
int tms_sample_write(int fd, enum tms_sample_kind kind);
