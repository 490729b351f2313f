// SPDX-License-Identifier: MIT
/*
 * The size of pymalloc's arenas that were allocated since tracing began. Frees
 * of arenas that are not known are ignored.
 *
 * The hook runs on the program's threads inside its allocator: it calls nothing
 * but the allocator below and maps its own memory. GIL for the functions here.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Starts with nothing known, and hooks. False: this Python has no hook for arenas. */
bool tm_arena_start(void);
/* False: another tool has hooked above us, ours stays as pass-through. */
bool tm_arena_stop(void);
/* Forgets the arenas that are known. */
void tm_arena_reset(void);
bool tm_arena_is_supported(void);
uint64_t tm_arena_bytes(void);
