// SPDX-License-Identifier: MIT
/* Sizes as people read them, in the form that DisplayTop of the API prints. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Long enough for every text that this module makes, NUL included. */
#define TM_SIZE_TEXT 40

enum tm_size_style {
    TM_SIZE_PLAIN = 0,
    TM_SIZE_SIGNED = 1, /* "+0 B": for differences */
};

/* "5119 B", "5 KiB" ... "12 TiB": a unit is left when the amount reaches 5 * 1024 of it; whole
 * numbers, truncated toward zero. Returns `ret`. */
const char *tm_size_format(int64_t n_bytes, enum tm_size_style style, char ret[TM_SIZE_TEXT]);

/* Upper bound of the size class of a block: multiples of 16 up to 512, where pymalloc's classes
 * end, then powers of two. 0 stays 0. Saturates at 2^63. */
uint64_t tm_size_class(uint64_t n_bytes);
