// SPDX-License-Identifier: MIT
/* Where a thread that is inside an allocator comes out of it. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "injector/inject_unwind.h"

struct tm_landing {
    uint64_t slot_addr; /* on the thread's stack: the return address out of the allocator */
    uint64_t return_addr;
};

/* frames as tm_unwinder_walk left them, to the end of the stack. True where some allocator function
 * is on the stack, entered from code in which the thread may call pthread_create. */
bool tm_landing_find(tm_unwinder *unwinder, const GArray *frames, struct tm_landing *ret);
/* The test for a name of libc or of an allocator, leading "__GI_" and underscores left aside. */
bool tm_landing_name_is_allocator(const char *name);
