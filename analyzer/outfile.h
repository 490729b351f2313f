// SPDX-License-Identifier: MIT
/* A file that is complete or not there: written without a name, or under another one, and then
 * renamed. A device or a pipe is written to as it is: renaming would put a file in its place. */
#pragma once

#include <glib.h>
#include <stdio.h>

typedef struct {
    FILE *stream;
    char *path;      /* NULL: stdout */
    char *temporary; /* NULL: it has none (yet) */
    gboolean is_special;
} TmOutfile;

/* path NULL or "-": stdout. */
gboolean tm_outfile_open(TmOutfile *file, const char *path, GError **error);
/* Flushes and gives the file its name. */
gboolean tm_outfile_commit(TmOutfile *file, GError **error);
/* Removes what was not committed. */
void tm_outfile_done(TmOutfile *file);
