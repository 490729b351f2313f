// SPDX-License-Identifier: MIT
/* Tops and differences of a session. */
#include "analyzer/report.h"

#include <string.h>

#include "analyzer/document.h"
#include "analyzer/error.h"
#include "analyzer/metrics.h"
#include "analyzer/output.h"
#include "analyzer/progress.h"
#include "analyzer/render.h"
#include "analyzer/text.h"

typedef struct {
    TmSession *session;
    const TmOptions *options;
    TmReportKind kind;
    struct tm_groups old;
    guint old_index;
    gboolean has_old;
    TmDocument *document; /* NULL: text */
    TmTable *items, *snapshots, *metrics;
    gboolean exceeded; /* the amount of --fail-over */
} Report;

static void begin_document(Report *report, const char *command)
{
    const TmOptions *options = report->options;

    if (options->output == TM_OUTPUT_TEXT)
        return;
    report->document = tm_document_new(command);
    tm_document_string(report->document, "group_by", tm_group_by_name(options->by));
    tm_document_bool(report->document, "cumulative", options->cumulative);
    report->items = tm_document_table(
        report->document, "items",
        "snapshot rank file line function traceback value size size_diff count count_diff average");
    report->snapshots = tm_document_table(
        report->document, "snapshots",
        "snapshot path timestamp timestamp_ns pid compared_to groups shown size size_diff count "
        "count_diff more_size more_size_diff more_count more_count_diff sample_bytes samples "
        "size_error size_diff_error");
    report->metrics =
        tm_document_table(report->document, "metrics", "snapshot name format value diff");
}

static void add_diff(TmTable *table, gboolean has_old, gint64 diff)
{
    if (has_old)
        tm_table_i64(table, diff);
    else
        tm_table_null(table);
}

static void add_item(Report *report, guint index, const TmTop *top, size_t rank)
{
    const struct tm_change *row = &top->diff->rows[rank];
    gboolean has_old = top->previous != NULL;
    TmTable *table = report->items;

    tm_table_u64(table, index);
    tm_table_u64(table, rank + 1);
    tm_output_group(table, &report->session->model, top->by, row->id);
    tm_table_u64(table, row->size);
    add_diff(table, has_old, row->size_diff);
    tm_table_u64(table, row->count);
    add_diff(table, has_old, row->count_diff);
    if (row->count)
        tm_table_u64(table, row->size / row->count);
    else
        tm_table_null(table);
}

static void add_metrics(Report *report, guint index, const TmTop *top)
{
    static const char *const formats[] = {"int", "size", "percent"};
    g_autoptr(GArray) metrics =
        tm_metrics_get(&top->snapshot->file, top->previous ? &top->previous->file : NULL);

    for (guint i = 0; i < metrics->len; i++) {
        const TmMetric *metric = &g_array_index(metrics, TmMetric, i);
        TmTable *table = report->metrics;

        tm_table_u64(table, index);
        tm_table_str(table, metric->name);
        tm_table_string(table, formats[metric->format]);
        if (metric->format == TMS_METRIC_PERCENT)
            tm_table_double(table, metric->f);
        else
            tm_table_i64(table, metric->i);
        if (!metric->has_old)
            tm_table_null(table);
        else if (metric->format == TMS_METRIC_PERCENT)
            tm_table_double(table, metric->f - metric->old_f);
        else
            tm_table_i64(table, (gint64)((guint64)metric->i - (guint64)metric->old_i));
    }
}

/* Four cells, null where the sums are exact. */
static void add_estimate(TmTable *table, const TmTop *top)
{
    if (top->estimate.mean_bytes != 0) {
        tm_table_u64(table, (guint64)top->estimate.mean_bytes);
        tm_table_u64(table, top->estimate.samples);
        tm_table_double(table, top->estimate.error_bytes);
    } else {
        tm_table_null(table);
        tm_table_null(table);
        tm_table_null(table);
    }
    if (top->change_error_bytes > 0)
        tm_table_double(table, top->change_error_bytes);
    else
        tm_table_null(table);
}

static void add_top(Report *report, guint index, const TmTop *top)
{
    const struct tm_diff *diff = top->diff;
    TmTable *table = report->snapshots;

    for (size_t i = 0; i < diff->n_rows; i++)
        add_item(report, index, top, i);
    tm_output_snapshot(table, index, top->snapshot);
    if (top->previous)
        tm_table_u64(table, report->old_index);
    else
        tm_table_null(table);
    tm_table_u64(table, diff->n_groups);
    tm_table_u64(table, diff->n_rows);
    tm_table_u64(table, diff->total.size);
    add_diff(table, diff->has_old, diff->total.size_diff);
    tm_table_u64(table, diff->total.count);
    add_diff(table, diff->has_old, diff->total.count_diff);
    tm_table_u64(table, diff->rest.size);
    add_diff(table, diff->has_old, diff->rest.size_diff);
    tm_table_u64(table, diff->rest.count);
    add_diff(table, diff->has_old, diff->rest.count_diff);
    add_estimate(table, top);
    if (!report->options->hide_metrics)
        add_metrics(report, index, top);
}

static void judge(Report *report, guint64 amount_bytes)
{
    report->exceeded = report->exceeded || (report->options->has_fail_over &&
                                            amount_bytes > report->options->fail_over_bytes);
}

/* By address nothing is scaled: a block is itself. */
static gboolean estimate(TmTop *top, GError **error)
{
    struct tm_estimate previous = {0};

    if (top->by == TM_BY_ADDRESS)
        return TRUE;
    if (!tm_snapshot_estimate(top->snapshot, &top->estimate, error) ||
        (top->previous && !tm_snapshot_estimate(top->previous, &previous, error)))
        return FALSE;
    if (top->previous)
        top->change_error_bytes = tm_sampled_diff_error(&top->estimate, &previous);
    return TRUE;
}

static gboolean show(Report *report, guint index, const struct tm_groups *groups, GError **error)
{
    gboolean compare = report->has_old && report->kind != TM_REPORT_TOPS;
    struct tm_diff diff;
    TmTop top = {
        .snapshot = tm_session_get(report->session, index),
        .previous = compare ? tm_session_get(report->session, report->old_index) : NULL,
        .by = groups->by,
        .cumulative = groups->cumulative,
        .diff = &diff,
    };

    if (!compare && report->kind == TM_REPORT_DIFFS)
        return TRUE;
    if (!estimate(&top, error))
        return FALSE;
    if (!tm_diff_make(&report->session->model, compare ? &report->old : NULL, groups,
                      (size_t)report->options->number, &diff))
        return tm_error_data(error, "not enough memory");
    if (!compare && report->kind == TM_REPORT_TOPS)
        judge(report, diff.total.size);
    else if (compare && diff.total.size_diff > 0)
        judge(report, (guint64)diff.total.size_diff);
    if (report->document)
        add_top(report, index, &top);
    else
        tm_render_top(&top, report->options, stdout);
    tm_diff_done(&diff);
    return TRUE;
}

static gboolean step(Report *report, guint index, TmProgress progress, GError **error)
{
    const TmOptions *options = report->options;
    struct tm_groups groups;
    gboolean ok;

    tm_progress(progress, report->session->progress_from, "Group stats by %s ...",
                tm_render_noun(options->by));
    if (!tm_session_group(report->session, index, options->by,
                          options->cumulative ? TM_GROUP_CUMULATIVE : TM_GROUP_DEFAULT, &groups,
                          error))
        return FALSE;
    ok = show(report, index, &groups, error);
    if (report->has_old && options->first) {
        tm_groups_done(&groups);
    } else {
        tm_groups_done(&report->old);
        report->old = groups;
        report->old_index = index;
        report->has_old = TRUE;
    }
    return ok;
}

gboolean tm_report(TmSession *session, const char *command, TmReportKind kind,
                   const TmOptions *options, TmProgress progress, gboolean *ret_exceeded,
                   GError **error)
{
    Report report = {.session = session, .options = options, .kind = kind};
    gboolean ok = TRUE;

    begin_document(&report, command);
    for (guint i = 0; ok && i < session->snapshots->len; i++)
        ok = step(&report, i, progress, error);
    if (ok && report.document)
        tm_output_document(report.document, options->output);
    tm_groups_done(&report.old);
    tm_document_free(report.document);
    *ret_exceeded = report.exceeded;
    return ok;
}
