// SPDX-License-Identifier: MIT
/* Metrics of snapshots, by name. */
#pragma once

#include <glib.h>

#include "format/tms_reader.h"

typedef struct {
    struct tms_str name; /* borrowed from the file */
    enum tms_metric_format format;
    gint64 i;
    double f;
    gboolean has_old;
    gint64 old_i;
    double old_f;
    gboolean vanished; /* only the old snapshot has it; the value is 0 */
} TmMetric;

/* Metrics of `file` and, where not NULL, of `old`, sorted by name. */
GArray *tm_metrics_get(const struct tms_file *file, const struct tms_file *old);
/* A blank line and "name: value (+diff)" for each; nothing if there are none. */
void tm_metrics_append(GString *out, const struct tms_file *file, const struct tms_file *old,
                       gboolean color);
