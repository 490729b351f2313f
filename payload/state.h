// SPDX-License-Identifier: MIT
/* The one struct tm_state of this process: see format/state.h for who reads it from outside. */
#pragma once

#include "format/state.h"

/* Of a variable that hooks read: -fvisibility=hidden does not say it of declarations, and an access
 * through the GOT costs an instruction more even after the linker has relaxed it. */
#define TM_HIDDEN __attribute__((visibility("hidden")))

extern struct tm_state tm_state_export;
/* The same object by a name of our own, which needs no look into the GOT. */
extern struct tm_state tm_state_own TM_HIDDEN;

/* Blocks are aligned to 16 bytes; pymalloc aligned to 8 up to 3.7.3 (bpo-27987). */
#define TM_GRANULE_SHIFT 4
#define TM_GRANULE_SHIFT_OLD 3 /* before 3.8 */
