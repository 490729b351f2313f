// SPDX-License-Identifier: MIT
/* The error domain of the inspect/ library: why a process or a file could not be looked at. */
#pragma once

#include <glib.h>

#define TM_INSPECT_ERROR (tm_inspect_error_quark())

enum tm_inspect_error {
    TM_INSPECT_ERROR_GONE,       /* the process does not exist (any more) */
    TM_INSPECT_ERROR_PERMISSION, /* the kernel says no */
    TM_INSPECT_ERROR_FORMAT,     /* not what it should be, truncated, malformed */
    TM_INSPECT_ERROR_NOT_FOUND,  /* well formed, but what was asked for is not in it */
    TM_INSPECT_ERROR_IO,         /* everything else */
};

GQuark tm_inspect_error_quark(void);

/* The code for an errno of /proc, ptrace or process_vm_readv. */
enum tm_inspect_error tm_inspect_error_from_errno(int number);

/* Sets *error to "what: strerror(number)" with the fitting code. */
void tm_inspect_set_errno(GError **error, int number, const char *format, ...) G_GNUC_PRINTF(3, 4);
