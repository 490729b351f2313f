// SPDX-License-Identifier: MIT
/* Series. */
#include "analyzer/series.h"

#include "analyzer/error.h"
#include "analyzer/progress.h"

static void row_clear(void *data)
{
    TmSeriesRow *row = data;

    g_free(row->bytes);
    g_free(row->count);
}

static TmSeriesRow *get_row(TmSeries *series, guint64 id)
{
    void *found;
    TmSeriesRow row = {.id = id};

    if (g_hash_table_lookup_extended(series->row_of_id, (void *)(guintptr)id, NULL, &found))
        return &g_array_index(series->rows, TmSeriesRow, GPOINTER_TO_UINT(found));
    row.bytes = g_new0(guint64, series->n);
    row.count = g_new0(guint64, series->n);
    g_hash_table_insert(series->row_of_id, (void *)(guintptr)id,
                        GUINT_TO_POINTER(series->rows->len));
    g_array_append_val(series->rows, row);
    return &g_array_index(series->rows, TmSeriesRow, series->rows->len - 1);
}

static gboolean add_snapshot(TmSeries *series, TmSession *session, guint index,
                             const TmOptions *options, GError **error)
{
    struct tm_groups groups;

    if (!tm_session_group(session, index, options->by,
                          options->cumulative ? TM_GROUP_CUMULATIVE : TM_GROUP_DEFAULT, &groups,
                          error))
        return FALSE;
    for (size_t i = 0; i < groups.n_items; i++) {
        TmSeriesRow *row = get_row(series, groups.items[i].id);
        row->bytes[index] = groups.items[i].bytes;
        row->count[index] = groups.items[i].count;
    }
    series->bytes[index] = (double)groups.bytes;
    series->count[index] = (double)groups.count;
    tm_groups_done(&groups);
    return TRUE;
}

TmSeries *tm_series_new(TmSession *session, const TmOptions *options, GError **error)
{
    g_autoptr(TmSeries) series = g_new0(TmSeries, 1);
    guint64 start_ns = tm_session_get(session, 0)->file.timestamp_ns;

    series->n = session->snapshots->len;
    series->hours = g_new0(double, series->n);
    series->bytes = g_new0(double, series->n);
    series->count = g_new0(double, series->n);
    series->rows = g_array_new(FALSE, FALSE, sizeof(TmSeriesRow));
    g_array_set_clear_func(series->rows, row_clear);
    series->row_of_id = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < series->n; i++) {
        series->hours[i] =
            (double)(tm_session_get(session, i)->file.timestamp_ns - start_ns) / 3600e9;
        tm_progress(TM_PROGRESS_LONG, session->progress_from, "Group snapshot %u of %u ...", i + 1,
                    series->n);
        if (!add_snapshot(series, session, i, options, error))
            return NULL;
    }
    return g_steal_pointer(&series);
}

void tm_series_free(TmSeries *series)
{
    if (series == NULL)
        return;
    g_free(series->hours);
    g_free(series->bytes);
    g_free(series->count);
    g_clear_pointer(&series->rows, g_array_unref);
    g_clear_pointer(&series->row_of_id, g_hash_table_unref);
    g_free(series);
}
