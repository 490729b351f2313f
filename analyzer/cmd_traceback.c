// SPDX-License-Identifier: MIT
/* tm-analyze traceback FILE...: the tracebacks that hold the most memory, with source lines. */
#include <inttypes.h>
#include <stdio.h>

#include "analyzer/blocks.h"
#include "analyzer/command.h"
#include "analyzer/core/compare.h"
#include "analyzer/core/size.h"
#include "analyzer/report.h"
#include "analyzer/text.h"

static void append_top(GString *out, const TmSession *session, guint index,
                       const struct tm_diff *diff, const TmOptions *options, TmSource *source)
{
    const TmSnapshot *snapshot = tm_session_get(session, index);
    g_autofree char *timestamp = tm_text_timestamp(snapshot->file.timestamp_ns);
    char size[TM_SIZE_TEXT];

    tm_text_append_styled(out, options->color, TM_STYLE_BOLD, timestamp);
    g_string_append_printf(out, ": Top %zu tracebacks\n\n", diff->n_rows);
    for (size_t i = 0; i < diff->n_rows; i++) {
        const struct tm_change *row = &diff->rows[i];
        g_string_append_printf(out, "#%zu: size=%s, count=%" PRIu64, i + 1,
                               tm_size_format((gint64)row->size, TM_SIZE_PLAIN, size), row->count);
        if (row->count > 1)
            g_string_append_printf(
                out, ", average=%s",
                tm_size_format((gint64)(row->size / row->count), TM_SIZE_PLAIN, size));
        g_string_append_c(out, '\n');
        tm_blocks_append_traceback(out, &session->model, (guint32)row->id, source);
        g_string_append_c(out, '\n');
    }
    if (diff->n_groups > diff->n_rows)
        g_string_append_printf(
            out, "%zu more: size=%s, count=%" PRIu64 "\n\n", diff->n_groups - diff->n_rows,
            tm_size_format((gint64)diff->rest.size, TM_SIZE_PLAIN, size), diff->rest.count);
}

static gboolean show_text(TmSession *session, const TmOptions *options, GError **error)
{
    g_autoptr(TmSource) source = tm_source_new(options->source_root);

    for (guint i = 0; i < session->snapshots->len; i++) {
        g_autoptr(GString) out = g_string_new(NULL);
        struct tm_groups groups;
        struct tm_diff diff;
        gboolean ok;

        if (!tm_session_group(session, i, TM_BY_TRACEBACK, TM_GROUP_DEFAULT, &groups, error))
            return FALSE;
        ok = tm_diff_make(&session->model, NULL, &groups, (size_t)options->number, &diff);
        tm_groups_done(&groups);
        if (!ok)
            return tm_error_data(error, "not enough memory");
        append_top(out, session, i, &diff, options, source);
        fwrite(out->str, 1, out->len, stdout);
        tm_diff_done(&diff);
    }
    return TRUE;
}

static TmExit run(const TmOptions *options, GError **error)
{
    g_autoptr(TmSession) session = NULL;
    TmOptions by_traceback = *options;
    gboolean exceeded, ok;

    if (options->files[0] == NULL) {
        tm_error_usage(error, "traceback needs a snapshot");
        return TM_EXIT_USAGE;
    }
    by_traceback.by = TM_BY_TRACEBACK;
    session = tm_session_open(options->files, TM_PROGRESS_LONG, error);
    if (session == NULL || !tm_session_require_traces(session, error) ||
        !tm_session_filter(session, (const void *)options->filters->data, options->filters->len,
                           error))
        return TM_EXIT_DATA;
    if (options->output == TM_OUTPUT_TEXT)
        ok = show_text(session, options, error);
    else
        ok = tm_report(session, "traceback", TM_REPORT_TOPS, &by_traceback, TM_PROGRESS_LONG,
                       &exceeded, error);
    return ok ? TM_EXIT_OK : TM_EXIT_DATA;
}

const TmCommand tm_cmd_traceback = {
    .name = "traceback",
    .takes =
        TM_TAKES_NUMBER | TM_TAKES_FILTERS | TM_TAKES_DISPLAY | TM_TAKES_OUTPUT | TM_TAKES_SOURCE,
    .parameters = "FILE...",
    .summary = "Shows the tracebacks that hold the most memory, with source lines.",
    .run = run,
};
