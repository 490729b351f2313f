// SPDX-License-Identifier: MIT
/* Progress lines. */
#include "analyzer/progress.h"

#include <stdio.h>
#include <unistd.h>

void tm_progress(TmProgress progress, gint64 from, const char *format, ...)
{
    va_list args;

    if (progress == TM_PROGRESS_NEVER)
        return;
    if (progress == TM_PROGRESS_LONG &&
        (g_get_monotonic_time() - from < G_USEC_PER_SEC || !isatty(STDERR_FILENO)))
        return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}
