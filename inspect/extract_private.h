// SPDX-License-Identifier: MIT
/* What the two passive readers share. Not for users of the library. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "format/tms_writer.h"
#include "inspect/extract.h"

enum tm_state_found {
    TM_STATE_NOT_FOUND, /* no payload, or one whose memory is not there: try something else */
    TM_STATE_FOUND,
    TM_STATE_UNUSABLE, /* *error says why */
};

/* extract_find.c */
enum tm_state_found tm_extract_find_state(tm_target *target, uint64_t *ret_addr, GError **error);
/* extract_state.c */
bool tm_extract_state(tm_target *target, uint64_t state_addr, int fd, struct tm_extract_result *ret,
                      GError **error);
/* extract_tracemalloc.c */
bool tm_extract_tracemalloc(tm_target *target, int fd, struct tm_extract_result *ret,
                            GError **error);

/* Free with g_free. */
struct tms_writer *tm_extract_writer_new(const tm_target *target, int fd, unsigned granule_shift);
bool tm_extract_writer_end(struct tms_writer *writer, struct tm_extract_result *ret,
                           GError **error);
/* Into the open section of facts; python: the version, "" where it is not known. */
void tm_extract_process_facts(struct tms_writer *writer, const tm_target *target,
                              const char *python);

/* The section of strings under construction. */
#define TM_STRING_MAX_BYTES (1u << 20)
struct tm_strings {
    GArray *ends; /* uint32_t */
    GString *bytes;
};
void tm_strings_init(struct tm_strings *strings);
void tm_strings_done(struct tm_strings *strings);
/* The id, or TMS_NO_ID where the string is too long to be true. */
uint32_t tm_strings_add(struct tm_strings *strings, const char *bytes, size_t n_bytes);
void tm_strings_write(const struct tm_strings *strings, struct tms_writer *writer);

/* metrics: of struct tms_metric. */
void tm_extract_add_metric(GArray *metrics, struct tm_strings *strings, const char *name,
                           enum tms_metric_format format, int64_t value);
/* value: 1.0 is 100 %. */
void tm_extract_add_percent(GArray *metrics, struct tm_strings *strings, const char *name,
                            double value);
void tm_extract_add_process_metrics(GArray *metrics, struct tm_strings *strings,
                                    const tm_target *target);
void tm_extract_write_array(struct tms_writer *writer, enum tms_section_type type,
                            const GArray *array);
