// SPDX-License-Identifier: MIT
/* tm-analyze summary FILE...: what a snapshot is of, and what it holds on the whole. */
#include <inttypes.h>
#include <string.h>

#include "analyzer/command.h"
#include "analyzer/core/compare.h"
#include "analyzer/core/size.h"
#include "analyzer/document.h"
#include "analyzer/metrics.h"
#include "analyzer/output.h"
#include "analyzer/render.h"
#include "analyzer/session.h"
#include "analyzer/text.h"

static gboolean group(TmSession *session, guint index, enum tm_group_by by, size_t limit,
                      struct tm_diff *ret, GError **error)
{
    struct tm_groups groups;
    gboolean ok;

    if (!tm_session_group(session, index, by, TM_GROUP_DEFAULT, &groups, error))
        return FALSE;
    ok = tm_diff_make(&session->model, NULL, &groups, limit, ret) ||
         tm_error_data(error, "not enough memory");
    tm_groups_done(&groups);
    return ok;
}

typedef void (*FactFunc)(const char *key, const char *value, void *data);

static void each_fact(const struct tms_file *file, FactFunc func, void *data)
{
    const char *end = file->facts + file->facts_bytes;

    for (const char *fact = file->facts; fact < end; fact += strlen(fact) + 1) {
        const char *equals = strchr(fact, '=');
        g_autofree char *key = equals ? g_strndup(fact, (gsize)(equals - fact)) : NULL;
        if (key)
            func(key, equals + 1, data);
    }
}

/* --- text --- */

static void append_fact(const char *key, const char *value, void *data)
{
    GString *out = data;
    guint64 ns;

    g_string_append_printf(out, "  %s: ", key);
    if (g_str_has_suffix(key, "_ns") && strcmp(key, "pause_ns") != 0 &&
        g_ascii_string_to_unsigned(value, 10, 1, G_MAXINT64, &ns, NULL)) {
        g_autofree char *timestamp = tm_text_timestamp(ns);
        g_string_append(out, timestamp);
    } else {
        tm_text_append_safe(out, (struct tms_str){value, strlen(value)});
    }
    g_string_append_c(out, '\n');
}

/* What makes the numbers less than the whole truth is said in words. */
static void append_caveats(GString *out, const struct tms_file *file,
                           const struct tm_estimate *estimate)
{
    gint64 dropped = tms_file_fact_i64(file, "dropped", 0);
    gint64 sample_bytes = tms_file_fact_i64(file, "sample_bytes", 0);
    gint64 torn = tms_file_fact_i64(file, "torn", 0);

    if (dropped > 0)
        g_string_append_printf(out,
                               "  %" PRId64 " records could not be kept: sizes and counts are "
                               "lower bounds\n",
                               (int64_t)dropped);
    if (torn > 0)
        g_string_append_printf(out,
                               "  %" PRId64 " entries were in motion when they were read and "
                               "are left out\n",
                               (int64_t)torn);
    if (estimate->mean_bytes != 0) {
        g_string_append(out, "  ");
        tm_render_estimate(out, estimate);
        g_string_append_c(out, '\n');
    } else if (sample_bytes > 0) {
        g_string_append_printf(out,
                               "  one block in %" PRId64 " bytes on average was recorded: sizes "
                               "and counts are estimates\n",
                               (int64_t)sample_bytes);
    }
}

static void append_rows(GString *out, const struct tm_model *model, enum tm_group_by by,
                        const struct tm_diff *diff, const TmOptions *options)
{
    char size[TM_SIZE_TEXT];

    for (size_t i = 0; i < diff->n_rows; i++) {
        g_string_append(out, "  ");
        tm_render_key(out, model, by, diff->rows[i].id, options->color, options->filename_parts);
        g_string_append_printf(out, ": size=%s, count=%" PRIu64 "\n",
                               tm_size_format((gint64)diff->rows[i].size, TM_SIZE_PLAIN, size),
                               diff->rows[i].count);
    }
}

static void append_section(GString *out, const TmOptions *options, const char *title)
{
    tm_text_append_styled(out, options->color, TM_STYLE_CYAN, title);
    g_string_append_c(out, '\n');
}

static gboolean append_summary(GString *out, TmSession *session, guint index,
                               const TmOptions *options, GError **error)
{
    const TmSnapshot *snapshot = tm_session_get(session, index);
    const struct tms_file *file = &snapshot->file;
    g_autofree char *timestamp = tm_text_timestamp(file->timestamp_ns);
    gboolean has_domains = tm_snapshot_has_domains(snapshot);
    struct tm_diff lines = {0}, domains = {0};
    struct tm_estimate estimate;
    char size[TM_SIZE_TEXT];
    gboolean ok;

    ok = tm_snapshot_estimate(snapshot, &estimate, error) &&
         group(session, index, TM_BY_LINE, (size_t)options->number, &lines, error) &&
         (!has_domains || group(session, index, TM_BY_DOMAIN, 8, &domains, error));
    if (ok) {
        tm_text_append_styled(out, options->color, TM_STYLE_BOLD, timestamp);
        g_string_append_printf(out, ": %s\n", snapshot->path);
        g_string_append_printf(out, "  %s in %" PRIu64 " blocks at %zu lines, %u tracebacks\n",
                               tm_size_format((gint64)lines.total.size, TM_SIZE_PLAIN, size),
                               lines.total.count, lines.n_groups,
                               file->n_nodes ? file->n_nodes - 1 : 0);
        append_caveats(out, file, &estimate);
        append_section(out, options, "Process");
        each_fact(file, append_fact, out);
        if (has_domains)
            append_section(out, options, "Memory per domain");
        append_rows(out, &session->model, TM_BY_DOMAIN, &domains, options);
        append_section(out, options, "Largest lines");
        append_rows(out, &session->model, TM_BY_LINE, &lines, options);
        if (!options->hide_metrics)
            tm_metrics_append(out, file, NULL, options->color);
        g_string_append_c(out, '\n');
    }
    tm_diff_done(&lines);
    tm_diff_done(&domains);
    return ok;
}

/* --- tables: one long table of (snapshot, section, name, value, size, count) --- */

typedef struct {
    TmTable *table;
    guint index;
} Rows;

static void add_row(const Rows *rows, const char *section, const char *name, const char *value)
{
    tm_table_u64(rows->table, rows->index);
    tm_table_string(rows->table, section);
    tm_table_string(rows->table, name);
    tm_table_string(rows->table, value);
    tm_table_null(rows->table);
    tm_table_null(rows->table);
}

static void add_fact(const char *key, const char *value, void *data)
{
    add_row(data, "fact", key, value);
}

static void add_groups(const Rows *rows, const char *section, const struct tm_model *model,
                       enum tm_group_by by, const struct tm_diff *diff)
{
    for (size_t i = 0; i < diff->n_rows; i++) {
        g_autoptr(GString) key = g_string_new(NULL);
        tm_render_key(key, model, by, diff->rows[i].id, FALSE, G_MAXINT);
        tm_table_u64(rows->table, rows->index);
        tm_table_string(rows->table, section);
        tm_table_string(rows->table, key->str);
        tm_table_null(rows->table);
        tm_table_u64(rows->table, diff->rows[i].size);
        tm_table_u64(rows->table, diff->rows[i].count);
    }
}

static void add_metrics(const Rows *rows, const struct tms_file *file)
{
    g_autoptr(GArray) metrics = tm_metrics_get(file, NULL);

    for (guint i = 0; i < metrics->len; i++) {
        const TmMetric *metric = &g_array_index(metrics, TmMetric, i);
        g_autofree char *name = g_strndup(metric->name.bytes, metric->name.n_bytes);
        char number[G_ASCII_DTOSTR_BUF_SIZE];
        if (metric->format == TMS_METRIC_PERCENT)
            g_ascii_dtostr(number, sizeof number, metric->f);
        else
            g_snprintf(number, sizeof number, "%" PRId64, (int64_t)metric->i);
        add_row(rows, "metric", name, number);
    }
}

static gboolean add_summary(TmDocument *document, TmTable *table, TmTable *snapshots,
                            TmSession *session, guint index, const TmOptions *options,
                            GError **error)
{
    const TmSnapshot *snapshot = tm_session_get(session, index);
    gboolean has_domains = tm_snapshot_has_domains(snapshot);
    struct tm_diff lines = {0}, domains = {0};
    Rows rows = {table, index};
    gboolean ok;

    (void)document;
    ok = group(session, index, TM_BY_LINE, (size_t)options->number, &lines, error) &&
         (!has_domains || group(session, index, TM_BY_DOMAIN, 8, &domains, error));
    if (ok) {
        tm_output_snapshot(snapshots, index, snapshot);
        tm_table_u64(snapshots, lines.total.size);
        tm_table_u64(snapshots, lines.total.count);
        each_fact(&snapshot->file, add_fact, &rows);
        add_groups(&rows, "domain", &session->model, TM_BY_DOMAIN, &domains);
        add_groups(&rows, "line", &session->model, TM_BY_LINE, &lines);
        add_metrics(&rows, &snapshot->file);
    }
    tm_diff_done(&lines);
    tm_diff_done(&domains);
    return ok;
}

static gboolean summarize(TmSession *session, const TmOptions *options, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(TmDocument) document = tm_document_new("summary");
    TmTable *table = tm_document_table(document, "items", "snapshot section name value size count");
    TmTable *snapshots = tm_document_table(document, "snapshots",
                                           "snapshot path timestamp timestamp_ns pid size count");

    for (guint i = 0; i < session->snapshots->len; i++) {
        if (options->output == TM_OUTPUT_TEXT
                ? !append_summary(text, session, i, options, error)
                : !add_summary(document, table, snapshots, session, i, options, error))
            return FALSE;
    }
    if (options->output == TM_OUTPUT_TEXT)
        fwrite(text->str, 1, text->len, stdout);
    else
        tm_output_document(document, options->output);
    return TRUE;
}

static TmExit run(const TmOptions *options, GError **error)
{
    g_autoptr(TmSession) session = NULL;

    if (options->files[0] == NULL) {
        tm_error_usage(error, "summary needs a snapshot");
        return TM_EXIT_USAGE;
    }
    session = tm_session_open(options->files, TM_PROGRESS_LONG, error);
    if (session == NULL ||
        !tm_session_filter(session, (const void *)options->filters->data, options->filters->len,
                           error) ||
        !summarize(session, options, error))
        return TM_EXIT_DATA;
    return TM_EXIT_OK;
}

const TmCommand tm_cmd_summary = {
    .name = "summary",
    .takes = TM_TAKES_NUMBER | TM_TAKES_FILTERS | TM_TAKES_DISPLAY | TM_TAKES_OUTPUT,
    .parameters = "FILE...",
    .summary = "Shows of what process a snapshot is and what it holds on the whole.",
    .run = run,
};
