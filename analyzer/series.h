// SPDX-License-Identifier: MIT
/* Sizes of groups over a series of snapshots. */
#pragma once

#include <glib.h>

#include "analyzer/options.h"
#include "analyzer/session.h"

typedef struct {
    guint64 id;
    guint64 *bytes; /* one for each snapshot */
    guint64 *count;
} TmSeriesRow;

typedef struct {
    guint n;       /* snapshots */
    double *hours; /* since the first one */
    double *bytes; /* all groups together */
    double *count;
    GArray *rows; /* of TmSeriesRow */
    GHashTable *row_of_id;
} TmSeries;

TmSeries *tm_series_new(TmSession *session, const TmOptions *options, GError **error);
void tm_series_free(TmSeries *series);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TmSeries, tm_series_free)
