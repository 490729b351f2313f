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
/* Five cells: snapshot path timestamp timestamp_ns pid. */
void tm_output_snapshot(TmTable *table, guint index, const TmSnapshot *snapshot);
