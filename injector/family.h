// SPDX-License-Identifier: MIT
/* A process and all that descend from it, as --children means it. */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* pid first, then its descendants, parents before children. Elements are pid_t; free with
 * g_array_unref. What is born or ends meanwhile may be missing or be gone. */
GArray *tm_family_read(pid_t pid);
