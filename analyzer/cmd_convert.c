// SPDX-License-Identifier: MIT
/* tm-analyze convert FILE [-o OUT] [--to FORMAT] [--base OLD]: for other people's tools. */
#include <string.h>
#include <unistd.h>

#include "analyzer/command.h"
#include "analyzer/copy.h"
#include "analyzer/export.h"
#include "analyzer/outfile.h"
#include "analyzer/output.h"
#include "analyzer/session.h"

static const TmExportFormat *const formats[] = {
    &tm_export_tms,        &tm_export_pprof, &tm_export_collapsed,
    &tm_export_speedscope, &tm_export_dhat,  &tm_export_heaptrack,
    &tm_export_pickle,     &tm_export_csv,   &tm_export_json,
};

static char *to_format, *output_path, *base_path;
static int tuple_items = 4;

static const GOptionEntry entries[] = {
    {"to", 0, 0, G_OPTION_ARG_STRING, &to_format,
     "tms, pprof, collapsed, speedscope, dhat, heaptrack, pickle, csv or json", "FORMAT"},
    {"output", 'o', 0, G_OPTION_ARG_FILENAME, &output_path,
     "Write to OUT; its name tells the format where --to does not (.tms .pb.gz .folded "
     ".speedscope.json .dhat.json .heaptrack .pickle .csv .json)",
     "OUT"},
    {"base", 0, 0, G_OPTION_ARG_FILENAME, &base_path, "Write the differences to OLD", "OLD"},
    {"tuples", 0, 0, G_OPTION_ARG_INT, &tuple_items,
     "pickle: items of a trace: 4 for Python 3.9 and later (default), 3 for 3.6 to 3.8, 2 for "
     "3.4 and 3.5",
     "N"},
    G_OPTION_ENTRY_NULL,
};

static gboolean write_tms(const TmExport *job, GError **error)
{
    TmSession session = {.snapshots = g_ptr_array_new()};
    gboolean ok;

    g_ptr_array_add(session.snapshots, job->snapshot);
    ok = tm_copy_snapshots(&session, fileno(job->out), error);
    g_ptr_array_unref(session.snapshots);
    return ok;
}

const TmExportFormat tm_export_tms = {
    .name = "tms", .suffix = ".tms", .needs_fd = TRUE, .write = write_tms};

static const TmExportFormat *find_format(GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (to_format ? strcmp(to_format, formats[i]->name) == 0
                      : output_path && g_str_has_suffix(output_path, formats[i]->suffix))
            return formats[i];
    }
    if (to_format)
        tm_error_usage(error,
                       "%s is not one of tms, pprof, collapsed, speedscope, dhat, "
                       "heaptrack, pickle, csv, json",
                       to_format);
    else
        tm_error_usage(error, "convert needs --to FORMAT, or -o OUT with a name that tells it");
    return NULL;
}

static gboolean check_usage(const TmOptions *options, const TmExportFormat *format, GError **error)
{
    if (options->files[0] == NULL || options->files[1])
        return tm_error_usage(error, "convert takes one snapshot");
    if (base_path && !format->takes_base)
        return tm_error_usage(error, "%s has no form for differences: convert both snapshots",
                              format->name);
    if (tm_output_collides(options->output, output_path))
        return tm_error_usage(error, "--json and --csv tell what was written, and need -o OUT; "
                                     "--to json and --to csv write the tracebacks themselves");
    if (tuple_items < 2 || tuple_items > 4)
        return tm_error_usage(error, "--tuples takes 2, 3 or 4");
    if (output_path == NULL && (format->needs_fd || isatty(STDOUT_FILENO)) &&
        (format->needs_fd || format == &tm_export_pprof || format == &tm_export_pickle))
        return tm_error_usage(error, "%s needs -o OUT", format->name);
    return TRUE;
}

/* Sums of all tracebacks; the order is that of StatsDiff.sort. */
static gboolean make_diff(TmSession *session, const TmExportFormat *format, TmExport *job,
                          struct tm_diff *ret, GError **error)
{
    struct tm_groups now = {0}, then = {0};
    guint index = job->base ? 1 : 0;
    gboolean ok;

    for (guint i = 0; i < session->snapshots->len; i++) {
        if (tm_session_get(session, i) == job->snapshot)
            index = i;
    }
    ok = tm_session_group(session, index, TM_BY_TRACEBACK, TM_GROUP_DEFAULT, &now, error) &&
         (!job->base ||
          tm_session_group(session, 1 - index, TM_BY_TRACEBACK, TM_GROUP_DEFAULT, &then, error));
    ok = ok && tm_export_check_frames(format, &session->model, &now, &then, error);
    if (ok)
        ok = tm_diff_make(&session->model, job->base ? &then : NULL, &now, SIZE_MAX, ret) ||
             tm_error_data(error, "not enough memory");
    tm_groups_done(&now);
    tm_groups_done(&then);
    return ok;
}

static gboolean report(TmSession *session, const TmExport *job, const TmExportFormat *format,
                       TmOutput output, GError **error)
{
    g_autoptr(TmDocument) document = tm_document_new("convert");
    TmWritten written = {.path = output_path, .format = format->name};
    struct tm_groups sums[2] = {{0}};
    gboolean ok = TRUE;

    for (guint i = 0; ok && i < session->snapshots->len; i++)
        ok = tm_session_group(session, i, TM_BY_LINE, TM_GROUP_DEFAULT,
                              &sums[tm_session_get(session, i) == job->base], error);
    if (ok) {
        written.size_bytes = sums[0].bytes;
        written.count = sums[0].count;
        written.has_base = job->base != NULL;
        written.size_diff_bytes = (gint64)(sums[0].bytes - sums[1].bytes);
        written.count_diff = (gint64)(sums[0].count - sums[1].count);
        tm_output_written(document, &written);
        tm_output_session(document, session);
        tm_output_document(document, output);
    }
    tm_groups_done(&sums[0]);
    tm_groups_done(&sums[1]);
    return ok;
}

static gboolean convert(const TmOptions *options, const TmExportFormat *format, GError **error)
{
    char *paths[] = {options->files[0], base_path, NULL};
    g_autoptr(TmSession) session = tm_session_open(paths, TM_PROGRESS_LONG, error);
    TmExport job = {.tuple_items = tuple_items};
    struct tm_diff diff = {0};
    TmOutfile out;
    gboolean ok;

    if (session == NULL || !tm_session_filter(session, (const void *)options->filters->data,
                                              options->filters->len, error))
        return FALSE;
    /* Sorted by timestamp, but OLD is what the user calls old. */
    for (guint i = 0; i < session->snapshots->len; i++) {
        TmSnapshot *snapshot = tm_session_get(session, i);
        if (base_path && job.base == NULL && strcmp(snapshot->path, base_path) == 0)
            job.base = snapshot;
        else
            job.snapshot = snapshot;
    }
    if (format->needs_diff) {
        if (!make_diff(session, format, &job, &diff, error))
            return FALSE;
        job.diff = &diff;
    }
    ok = tm_outfile_open(&out, output_path, error);
    if (ok) {
        job.out = out.stream;
        ok = format->write(&job, error) && tm_outfile_commit(&out, error);
        tm_outfile_done(&out);
    }
    tm_diff_done(&diff);
    if (ok && options->output != TM_OUTPUT_TEXT)
        ok = report(session, &job, format, options->output, error);
    return ok;
}

static TmExit run(const TmOptions *options, GError **error)
{
    const TmExportFormat *format = find_format(error);

    if (format == NULL || !check_usage(options, format, error))
        return TM_EXIT_USAGE;
    return convert(options, format, error) ? TM_EXIT_OK : TM_EXIT_DATA;
}

const TmCommand tm_cmd_convert = {
    .name = "convert",
    .takes = TM_TAKES_FILTERS | TM_TAKES_OUTPUT,
    .parameters = "FILE",
    .summary = "Writes a snapshot in a format that other tools read.",
    .extra = entries,
    .run = run,
};
