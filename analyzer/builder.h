// SPDX-License-Identifier: MIT
/* Puts a .tms file together from parts that come in any order: for pickles, merging, conversion. */
#pragma once

#include <glib.h>

#include "format/tms_reader.h"
#include "format/tms_writer.h"

typedef struct TmBuilder TmBuilder;

/* fd: an empty regular file, borrowed. */
TmBuilder *tm_builder_new(int fd, guint64 timestamp_ns);
void tm_builder_free(TmBuilder *builder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TmBuilder, tm_builder_free)

/* The strings are borrowed until tm_builder_finish. An empty one is TMS_NO_ID. */
guint32 tm_builder_string(TmBuilder *builder, struct tms_str text);
/* A site without padding to clear; ids in it are of this builder. */
guint32 tm_builder_site(TmBuilder *builder, const struct tms_site *site);
guint32 tm_builder_node(TmBuilder *builder, guint32 parent, guint32 site);
/* Index + 1, as the type column has it. */
guint32 tm_builder_type(TmBuilder *builder, struct tms_str name);
guint32 tm_builder_module(TmBuilder *builder, const struct tms_module *module);
void tm_builder_stat(TmBuilder *builder, const struct tms_stat *stat);
void tm_builder_metric(TmBuilder *builder, const struct tms_metric *metric);
void tm_builder_fact(TmBuilder *builder, const char *key, const char *value);
void tm_builder_fact_i64(TmBuilder *builder, const char *key, gint64 value);
/* Written at once; node and type may be added later, as long as the ids come true. */
void tm_builder_trace(TmBuilder *builder, const struct tms_trace *trace);
guint64 tm_builder_trace_count(const TmBuilder *builder);

gboolean tm_builder_finish(TmBuilder *builder, GError **error);
