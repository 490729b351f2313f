// SPDX-License-Identifier: MIT
/* The error domain of the inspect/ library. */
#include "inspect/error.h"

#include <errno.h>
#include <stdarg.h>

G_DEFINE_QUARK(tm - inspect - error - quark, tm_inspect_error)

enum tm_inspect_error tm_inspect_error_from_errno(int number)
{
    switch (number) {
    case ESRCH:
    case ENOENT:
        return TM_INSPECT_ERROR_GONE;
    case EPERM:
    case EACCES:
        return TM_INSPECT_ERROR_PERMISSION;
    default:
        return TM_INSPECT_ERROR_IO;
    }
}

void tm_inspect_set_errno(GError **error, int number, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, TM_INSPECT_ERROR, tm_inspect_error_from_errno(number), "%s: %s", what,
                g_strerror(number));
}
