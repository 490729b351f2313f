// SPDX-License-Identifier: MIT
/* tm-analyze timeline FILE...: totals and the largest groups, snapshot by snapshot. */
#include <inttypes.h>
#include <string.h>

#include "analyzer/command.h"
#include "analyzer/core/size.h"
#include "analyzer/document.h"
#include "analyzer/output.h"
#include "analyzer/render.h"
#include "analyzer/series.h"
#include "analyzer/text.h"

#define SPARK_WIDTH_MAX 40u

/* The rows whose largest and smallest size differ most come first. */
static guint64 swing(const TmSeriesRow *row, guint n)
{
    guint64 least = G_MAXUINT64, most = 0;

    for (guint i = 0; i < n; i++) {
        least = MIN(least, row->bytes[i]);
        most = MAX(most, row->bytes[i]);
    }
    return most - least;
}

typedef struct {
    const struct tm_model *model;
    enum tm_group_by by;
    guint n;
} Order;

static int compare_rows(const void *a, const void *b, void *data)
{
    const Order *order = data;
    guint64 x = swing(a, order->n), y = swing(b, order->n);

    if (x != y)
        return x < y ? 1 : -1;
    return -tm_group_compare_ids(order->model, order->by, ((const TmSeriesRow *)a)->id,
                                 ((const TmSeriesRow *)b)->id);
}

static gboolean find_rss(const TmSnapshot *snapshot, gint64 *ret)
{
    for (guint32 i = 0; i < snapshot->file.n_metrics; i++) {
        const struct tms_metric *metric = &snapshot->file.metrics[i];
        struct tms_str name = tms_file_string(&snapshot->file, metric->name);
        if (name.n_bytes == 18 && memcmp(name.bytes, "process_memory.rss", 18) == 0) {
            *ret = metric->value.i;
            return TRUE;
        }
    }
    return FALSE;
}

/* --- text --- */

enum { BAR_COLUMN = 70, BAR_WIDTH_MAX = 40 };

static void append_bar(GString *out, double share)
{
    guint width = tm_text_width() - 1, full;

    width = width > BAR_COLUMN + 8 ? MIN(width - BAR_COLUMN, BAR_WIDTH_MAX) : 8;
    full = (guint)(share * width + 0.5);

    for (guint i = 0; i < full; i++)
        g_string_append_c(out, '#');
}

static void append_totals(GString *out, const TmSession *session, const TmSeries *series,
                          gboolean color)
{
    double most = 1;

    for (guint i = 0; i < series->n; i++)
        most = MAX(most, series->bytes[i]);
    for (guint i = 0; i < series->n; i++) {
        const TmSnapshot *snapshot = tm_session_get(session, i);
        g_autofree char *timestamp = tm_text_timestamp(snapshot->file.timestamp_ns);
        char size[TM_SIZE_TEXT], diff[TM_SIZE_TEXT] = "", rss_text[TM_SIZE_TEXT];
        gint64 rss;

        tm_text_append_styled(out, color, TM_STYLE_BOLD, timestamp);
        tm_size_format((gint64)series->bytes[i], TM_SIZE_PLAIN, size);
        if (i)
            tm_size_format((gint64)(series->bytes[i] - series->bytes[i - 1]), TM_SIZE_SIGNED, diff);
        g_string_append_printf(out, " %9s %10s  count=%-8.0f", size, diff, series->count[i]);
        if (find_rss(snapshot, &rss))
            g_string_append_printf(out, " rss=%-9s", tm_size_format(rss, TM_SIZE_PLAIN, rss_text));
        g_string_append_c(out, ' ');
        append_bar(out, series->bytes[i] / most);
        while (out->len && out->str[out->len - 1] == ' ')
            g_string_truncate(out, out->len - 1);
        g_string_append_c(out, '\n');
    }
}

/* Eight heights; a long series is thinned. */
static void append_spark(GString *out, const TmSeriesRow *row, guint n)
{
    static const char *const heights[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    guint width = MIN(n, SPARK_WIDTH_MAX);
    guint64 most = 1;

    for (guint i = 0; i < n; i++)
        most = MAX(most, row->bytes[i]);
    for (guint i = 0; i < width; i++) {
        guint at = width == n ? i : (guint)((guint64)i * (n - 1) / (width - 1));
        g_string_append(out, heights[(guint)((double)row->bytes[at] / (double)most * 7 + 0.5)]);
    }
}

static void append_groups(GString *out, const TmSession *session, const TmSeries *series,
                          const TmOptions *options)
{
    guint n_shown = MIN((guint)options->number, series->rows->len);

    for (guint i = 0; i < n_shown; i++) {
        const TmSeriesRow *row = &g_array_index(series->rows, TmSeriesRow, i);
        char first[TM_SIZE_TEXT], last[TM_SIZE_TEXT];

        g_string_append_printf(out, "#%u: ", i + 1);
        append_spark(out, row, series->n);
        g_string_append_c(out, ' ');
        tm_render_key(out, &session->model, options->by, row->id, options->color,
                      options->filename_parts);
        g_string_append_printf(
            out, ": %s -> %s\n", tm_size_format((gint64)row->bytes[0], TM_SIZE_PLAIN, first),
            tm_size_format((gint64)row->bytes[series->n - 1], TM_SIZE_PLAIN, last));
    }
    if (series->rows->len > n_shown)
        g_string_append_printf(out, "%u more\n", series->rows->len - n_shown);
}

static void write_text(const TmSession *session, const TmSeries *series, const TmOptions *options)
{
    g_autoptr(GString) out = g_string_new(NULL);

    append_totals(out, session, series, options->color);
    g_string_append_printf(out, "\nLargest changes per %s\n", tm_render_noun(options->by));
    append_groups(out, session, series, options);
    g_string_append_c(out, '\n');
    fwrite(out->str, 1, out->len, stdout);
}

/* --- tables --- */

static void write_document(const TmSession *session, const TmSeries *series,
                           const TmOptions *options)
{
    g_autoptr(TmDocument) document = tm_document_new("timeline");
    TmTable *table = tm_document_table(document, "snapshots",
                                       "snapshot path timestamp timestamp_ns pid size count rss");
    TmTable *items = tm_document_table(
        document, "items", "rank snapshot file line function traceback value size count");

    tm_document_string(document, "group_by", tm_group_by_name(options->by));
    for (guint s = 0; s < series->n; s++) {
        gint64 rss;
        tm_output_snapshot(table, s, tm_session_get(session, s));
        tm_table_u64(table, (guint64)series->bytes[s]);
        tm_table_u64(table, (guint64)series->count[s]);
        if (find_rss(tm_session_get(session, s), &rss))
            tm_table_i64(table, rss);
        else
            tm_table_null(table);
    }
    for (guint i = 0; i < MIN((guint)options->number, series->rows->len); i++) {
        const TmSeriesRow *row = &g_array_index(series->rows, TmSeriesRow, i);
        for (guint s = 0; s < series->n; s++) {
            tm_table_u64(items, i + 1);
            tm_table_u64(items, s);
            tm_output_group(items, &session->model, options->by, row->id);
            tm_table_u64(items, row->bytes[s]);
            tm_table_u64(items, row->count[s]);
        }
    }
    tm_output_document(document, options->output);
}

static TmExit run(const TmOptions *options, GError **error)
{
    g_autoptr(TmSession) session = NULL;
    g_autoptr(TmSeries) series = NULL;
    Order order = {.by = options->by};

    if (options->files[0] == NULL || options->by == TM_BY_ADDRESS) {
        tm_error_usage(error, options->files[0] ? "timeline cannot group by address"
                                                : "timeline needs snapshots");
        return TM_EXIT_USAGE;
    }
    session = tm_session_open(options->files, TM_PROGRESS_LONG, error);
    if (session == NULL ||
        !tm_session_filter(session, (const void *)options->filters->data, options->filters->len,
                           error) ||
        (series = tm_series_new(session, options, error)) == NULL)
        return TM_EXIT_DATA;
    order.model = &session->model;
    order.n = series->n;
    g_array_sort_with_data(series->rows, compare_rows, &order);
    if (options->output == TM_OUTPUT_TEXT)
        write_text(session, series, options);
    else
        write_document(session, series, options);
    return TM_EXIT_OK;
}

const TmCommand tm_cmd_timeline = {
    .name = "timeline",
    .takes = TM_TAKES_GROUPING | TM_TAKES_FILTERS | TM_TAKES_DISPLAY | TM_TAKES_OUTPUT,
    .parameters = "FILE...",
    .summary = "Shows how memory went over a series of snapshots.",
    .run = run,
};
