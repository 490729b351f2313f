// SPDX-License-Identifier: MIT
/*
 * The other threads of this process: is none of them inside certain code? What
 * the kernel says of a thread that waits is where it is; what lies on its stack
 * is where it goes back to. The stack is read word by word, not unwound: that
 * needs no tables, and also finds what a signal has interrupted.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_code_range {
    uint64_t begin, end; /* its first byte; behind its last */
};

/*
 * True: every other thread was seen to be elsewhere, or has run on since on a processor (the ranges
 * are a few instructions; its stack was not looked at). False: not within timeout_ms. A word on a
 * stack counts if it points behind a range's first byte; pointers to that one are everywhere.
 */
bool tm_bystanders_are_outside(const struct tm_code_range *ranges, size_t n, int timeout_ms);
