// SPDX-License-Identifier: MIT
/* Cells that the tables of several commands have in common. */
#pragma once

#include "analyzer/document.h"
#include "analyzer/options.h"
#include "analyzer/session.h"

/* To stdout, as JSON or CSV. */
void tm_output_document(const TmDocument *document, TmOutput output);
/* Five cells: file line function traceback value. */
void tm_output_group(TmTable *table, const struct tm_model *model, enum tm_group_by by, guint64 id);
/* What a command has written to a file. */
typedef struct {
    const char *path;
    const char *format;
    guint64 size_bytes, count;
    gboolean has_base;
    gint64 size_diff_bytes, count_diff;
} TmWritten;
/* True: --json or --csv was given, but what is written goes to standard output itself. */
gboolean tm_output_collides(TmOutput output, const char *output_path);
/* Adds the table "files", with one row. */
void tm_output_written(TmDocument *document, const TmWritten *written);
/* Adds the table "snapshots": all of the session. */
void tm_output_session(TmDocument *document, const TmSession *session);

/* Five cells: snapshot path timestamp timestamp_ns pid. */
void tm_output_snapshot(TmTable *table, guint index, const TmSnapshot *snapshot);
