// SPDX-License-Identifier: MIT
/* What takes long says so on stderr. */
#pragma once

#include <glib.h>

#include "analyzer/session.h"

/* One line. `from`: monotonic time in us when the work began; TM_PROGRESS_LONG stays silent for
 * the first second and where stderr is no terminal. */
G_GNUC_PRINTF(3, 4)
void tm_progress(TmProgress progress, gint64 from, const char *format, ...);
