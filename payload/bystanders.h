// SPDX-License-Identifier: MIT
/*
 * The other threads of this process: is none of them inside certain code? What the kernel says of
 * a thread that waits is exact: where it will go on. If that is in a signal handler, the frames of
 * handlers on its stack say what they interrupted. No thread is stopped and no system call cut
 * short, as an unwinder that looks from outside would have to (docs/PATCHED_PYTHONS.md). x86-64
 * only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_code_range {
    uint64_t begin, end; /* its first byte; behind its last */
};

/*
 * True: every other thread was seen to be elsewhere, or has used a processor since for longer than
 * it takes to leave the ranges (a few instructions in a row, without calls and loops). False: not
 * within timeout_ms, or it cannot be told. One caller at a time (the GIL).
 */
bool tm_bystanders_are_outside(const struct tm_code_range *ranges, size_t n, int timeout_ms);
