// SPDX-License-Identifier: MIT
/*
 * Inside of the .tms reader: errors, and what must hold in a file beyond the
 * place of its sections. Not for users of the reader.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "format/tms_reader.h"

/* Fills *error, which may be NULL. */
__attribute__((format(printf, 4, 5))) void tms_error_set(struct tms_error *error,
                                                         enum tms_error_code code, uint64_t offset,
                                                         const char *message, ...);
/* The same as the value false, for callers to return; a macro so that the compiler sees it. */
#define tms_fail(...) (tms_error_set(__VA_ARGS__), false)

/* "strings", "nodes" ...; "unknown" for a type that this reader skips. */
const char *tms_section_name(uint32_t type);

/* CRC of a section, as its header should have it. */
uint32_t tms_section_crc(uint32_t type, const void *payload, uint64_t payload_bytes);

/* Checks every id of every section, after all are located. */
bool tms_check_contents(const struct tms_file *file, struct tms_error *error);

/* Checks a group's head against the length of its section. */
bool tms_check_group(const struct tms_file *file, const struct tms_traces *head,
                     uint64_t payload_bytes, struct tms_error *error);

/* Sum of the group's sizes, modulo 2^64. */
bool tms_group_sum(const struct tms_file *file, uint32_t group, uint64_t *ret,
                   struct tms_error *error);
