// SPDX-License-Identifier: MIT
/* Pieces of text that several commands print: names, times, colours. */
#pragma once

#include <glib.h>

#include "format/tms_reader.h"

typedef enum {
    TM_STYLE_NONE = 0,
    TM_STYLE_BOLD,
    TM_STYLE_CYAN,
    TM_STYLE_YELLOW,
    TM_STYLE_BOLD_YELLOW,
} TmStyle;

/* Appends `text`, in colour if `color`. */
void tm_text_append_styled(GString *out, gboolean color, TmStyle style, const char *text);
/* Appends bytes of a file: control characters become \xNN, so that no name can steer a terminal. */
void tm_text_append_safe(GString *out, struct tms_str text);
/* A file name as DisplayTop shows it: at most `parts` parts, "???" where unknown. */
void tm_text_append_filename(GString *out, gboolean color, struct tms_str name, int parts);
/* "2013-10-03 11:34:39", local time, as str(datetime) up to the dot. */
char *tm_text_timestamp(guint64 timestamp_ns);
/* Whether to use colours: never with NO_COLOR, else where stdout is a terminal. */
gboolean tm_text_wants_color(void);
/* Columns of the terminal that stdout is; 80 for a file, a pipe or a pager behind one. */
guint tm_text_width(void);
/* Breaks lines that are longer than `width` at spaces and goes on below their last column that
 * two spaces set apart. For texts of ASCII. The caller frees it. */
char *tm_text_wrap(const char *text, guint width);
