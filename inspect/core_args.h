// SPDX-License-Identifier: MIT
#pragma once

#include "inspect/target.h"

/* The arguments joined by spaces, as /proc/PID/cmdline would have them; NULL where they are not
 * found. auxv: of the core's NT_AUXV. Free with g_free. */
char *tm_core_arguments(tm_target *target, const uint8_t *auxv, size_t n_bytes);
