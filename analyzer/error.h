// SPDX-License-Identifier: MIT
/* Errors of tm-analyze and the exit statuses that they become. */
#pragma once

#include <glib.h>

#include "format/tms_reader.h"

#define TM_ANALYZE_ERROR (tm_analyze_error_quark())
GQuark tm_analyze_error_quark(void);

/* The codes are the exit statuses, which man/tm-analyze.1 promises. */
typedef enum {
    TM_EXIT_OK = 0,
    TM_EXIT_DATA = 1,      /* a file cannot be read, or does not hold what was asked for */
    TM_EXIT_USAGE = 2,     /* the command line is wrong */
    TM_EXIT_FAIL_OVER = 3, /* --fail-over: the amount was exceeded */
} TmExit;

/* "MESSAGE (at byte N)": what the reader said; without a name of the file. */
void tm_error_set_from_reader(GError **error, const struct tms_error *reason);
G_GNUC_PRINTF(2, 3) gboolean tm_error_data(GError **error, const char *format, ...);
G_GNUC_PRINTF(2, 3) gboolean tm_error_usage(GError **error, const char *format, ...);
