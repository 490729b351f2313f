// SPDX-License-Identifier: MIT
/*
 * The other threads of this process: is none of them inside certain code? What
 * the kernel says of a thread that waits is where it is.
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
 * are a few instructions). False: not within timeout_ms.
 */
bool tm_bystanders_are_outside(const struct tm_code_range *ranges, size_t n, int timeout_ms);
