// SPDX-License-Identifier: MIT
/*
 * Code points and their UTF-8, surrogates included, as in CPython's
 * surrogatepass: file names that Python could not decode have lone ones. libc
 * only; any thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define TM_UTF8_MAX 4

/* Writes the bytes of a code point and returns how many they are; what is beyond Unicode becomes
 * U+FFFD. */
size_t tm_utf8_encode(uint32_t code_point, char ret[TM_UTF8_MAX]);

/* How many bytes at `text`, of which there are n_bytes > 0, are one code point; 0: they are none,
 * and *ret is untouched. */
size_t tm_utf8_decode(const char *text, size_t n_bytes, uint32_t *ret);

static inline int tm_utf8_is_surrogate(uint32_t code_point)
{
    return code_point >= 0xd800 && code_point < 0xe000;
}
