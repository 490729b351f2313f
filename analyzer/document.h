// SPDX-License-Identifier: MIT
/*
 * What a command found, as named facts and tables: the one form from which
 * JSON and CSV are written. docs/JSON.md documents the names.
 */
#pragma once

#include <glib.h>
#include <stdio.h>

#include "format/tms_reader.h"

#define TM_JSON_SCHEMA "tm-analyze/1"

typedef struct TmDocument TmDocument;
typedef struct TmTable TmTable;

TmDocument *tm_document_new(const char *command);
void tm_document_free(TmDocument *document);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TmDocument, tm_document_free)

void tm_document_string(TmDocument *document, const char *name, const char *value);
void tm_document_u64(TmDocument *document, const char *name, guint64 value);
void tm_document_i64(TmDocument *document, const char *name, gint64 value);
void tm_document_bool(TmDocument *document, const char *name, gboolean value);

/* Adds a table; `columns` are the names, separated by spaces. The first table is the one that CSV
 * shows. Borrowed from the document. */
TmTable *tm_document_table(TmDocument *document, const char *name, const char *columns);

/* Cells are added from left to right; the row ends with its last column. */
void tm_table_string(TmTable *table, const char *value); /* NULL: nothing there */
void tm_table_str(TmTable *table, struct tms_str value); /* empty: nothing there */
void tm_table_u64(TmTable *table, guint64 value);
void tm_table_i64(TmTable *table, gint64 value);
void tm_table_double(TmTable *table, double value);
void tm_table_bool(TmTable *table, gboolean value);
void tm_table_null(TmTable *table);
/* A list of strings; CSV joins it with ';'. The array is taken over. */
void tm_table_list(TmTable *table, GPtrArray *strings);

void tm_document_write_json(const TmDocument *document, FILE *out);
void tm_document_write_csv(const TmDocument *document, FILE *out);

/* Appends a JSON string, quotes included: bytes that are no UTF-8 become U+FFFD, lone surrogates
 * are escaped. For the exports, which write JSON of their own. */
void tm_json_append_string(GString *text, struct tms_str value);
