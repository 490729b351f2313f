// SPDX-License-Identifier: MIT
/* Debug information of one file: where a variable is, where a field lies in its struct. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "inspect/elf_file.h"

typedef struct tm_debug_info tm_debug_info;

struct tm_field {
    uint64_t offset_bytes; /* from the start of the outermost struct */
    uint64_t size_bytes;   /* of the field, or of the integer that a bit field lies in */
    unsigned bit_offset;   /* from the lowest bit; bit fields only */
    unsigned n_bits;       /* 0: not a bit field */
};

/*
 * Reads the file's own DWARF, that of the separate file which its build-id or .gnu_debuglink names
 * under /usr/lib/debug, or what debuginfod has where DEBUGINFOD_URLS is set. NOT_FOUND where there
 * is none; the message says how to get it. elf and path must outlive the result. Takes up to some
 * 100 ms. Free with tm_debug_info_free.
 */
tm_debug_info *tm_debug_info_open(const tm_elf *elf, const char *path, GError **error);
void tm_debug_info_free(tm_debug_info *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_debug_info, tm_debug_info_free)

/* The address in the file of a variable with static storage, of whatever compilation unit. */
bool tm_debug_info_variable(tm_debug_info *info, const char *name, uint64_t *ret_value);
/* A field by its path ("state.kind") in the struct that `type` names, as a tag or a typedef. */
bool tm_debug_info_field(tm_debug_info *info, const char *type, const char *path,
                         struct tm_field *ret);
bool tm_debug_info_size(tm_debug_info *info, const char *type, uint64_t *ret_bytes);
