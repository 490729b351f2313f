// SPDX-License-Identifier: MIT
/* Errors of tm-analyze. */
#include "analyzer/error.h"

#include <inttypes.h>

G_DEFINE_QUARK(tm - analyze - error - quark, tm_analyze_error)

void tm_error_set_from_reader(GError **error, const struct tms_error *reason)
{
    if (reason->offset)
        g_set_error(error, TM_ANALYZE_ERROR, TM_EXIT_DATA, "%s (at byte %" PRIu64 ")",
                    reason->message, reason->offset);
    else
        g_set_error_literal(error, TM_ANALYZE_ERROR, TM_EXIT_DATA, reason->message);
}

static void set(GError **error, TmExit code, const char *format, va_list args)
{
    if (error)
        *error = g_error_new_valist(TM_ANALYZE_ERROR, code, format, args);
}

/* Both return FALSE, so that a caller can return what they return. */
gboolean tm_error_data(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set(error, TM_EXIT_DATA, format, args);
    va_end(args);
    return FALSE;
}

gboolean tm_error_usage(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set(error, TM_EXIT_USAGE, format, args);
    va_end(args);
    return FALSE;
}
