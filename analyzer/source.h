// SPDX-License-Identifier: MIT
/* Source lines, where the files can be found. */
#pragma once

#include <glib.h>

#include "format/tms_reader.h"

typedef struct TmSource TmSource;

/* root: a directory below which files are looked for as well; may be NULL. */
TmSource *tm_source_new(const char *root);
void tm_source_free(TmSource *source);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TmSource, tm_source_free)

/* The line without the white space around it, borrowed; NULL: not found. */
const char *tm_source_line(TmSource *source, struct tms_str file, gint32 line);
