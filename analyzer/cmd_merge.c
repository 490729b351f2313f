// SPDX-License-Identifier: MIT
/* tm-analyze merge FILE... -o OUT: snapshots of many processes become one. */
#include "analyzer/command.h"
#include "analyzer/copy.h"
#include "analyzer/outfile.h"
#include "analyzer/output.h"
#include "analyzer/session.h"

static char *output_path;

static const GOptionEntry entries[] = {
    {"output", 'o', 0, G_OPTION_ARG_FILENAME, &output_path, "Write to OUT", "OUT"},
    G_OPTION_ENTRY_NULL,
};

/* Two snapshots of one process hold the same blocks, which would count twice. */
static gboolean check_pids(const TmSession *session, GError **error)
{
    for (guint i = 0; i < session->snapshots->len; i++) {
        const TmSnapshot *a = tm_session_get(session, i);
        for (guint j = 0; a->pid && j < i; j++) {
            const TmSnapshot *b = tm_session_get(session, j);
            if (a->pid == b->pid)
                return tm_error_data(error,
                                     "%s and %s are of one process, whose blocks would "
                                     "count twice",
                                     b->path, a->path);
        }
    }
    return TRUE;
}

static gboolean check_alike(const TmSession *session, GError **error)
{
    gboolean traces = tm_image_has_traces(&tm_session_get(session, 0)->image);

    for (guint i = 1; i < session->snapshots->len; i++) {
        if (tm_image_has_traces(&tm_session_get(session, i)->image) != traces)
            return tm_error_data(error, "Some of the snapshots contain traces, others only stats");
    }
    return TRUE;
}

static gboolean report(TmSession *session, TmOutput output, GError **error)
{
    g_autoptr(TmDocument) document = tm_document_new("merge");
    TmWritten written = {.path = output_path, .format = "tms"};

    for (guint i = 0; i < session->snapshots->len; i++) {
        struct tm_groups groups = {0};
        if (!tm_session_group(session, i, TM_BY_LINE, TM_GROUP_DEFAULT, &groups, error))
            return FALSE;
        written.size_bytes += groups.bytes;
        written.count += groups.count;
        tm_groups_done(&groups);
    }
    tm_output_written(document, &written);
    tm_output_session(document, session);
    tm_output_document(document, output);
    return TRUE;
}

static gboolean merge(const TmOptions *options, GError **error)
{
    g_autoptr(TmSession) session = tm_session_open(options->files, TM_PROGRESS_LONG, error);
    TmOutfile out;
    gboolean ok;

    if (session == NULL || !check_pids(session, error) || !check_alike(session, error) ||
        !tm_session_filter(session, (const void *)options->filters->data, options->filters->len,
                           error) ||
        !tm_outfile_open(&out, output_path, error))
        return FALSE;
    ok = tm_copy_snapshots(session, fileno(out.stream), error) && tm_outfile_commit(&out, error);
    tm_outfile_done(&out);
    return ok && (options->output == TM_OUTPUT_TEXT || report(session, options->output, error));
}

static TmExit run(const TmOptions *options, GError **error)
{
    if (options->files[0] == NULL || output_path == NULL) {
        tm_error_usage(error, options->files[0] ? "merge needs -o OUT" : "merge needs snapshots");
        return TM_EXIT_USAGE;
    }
    if (tm_output_collides(options->output, output_path)) {
        tm_error_usage(error, "--json and --csv tell what was written: merge needs -o OUT");
        return TM_EXIT_USAGE;
    }
    return merge(options, error) ? TM_EXIT_OK : TM_EXIT_DATA;
}

const TmCommand tm_cmd_merge = {
    .name = "merge",
    .takes = TM_TAKES_FILTERS | TM_TAKES_OUTPUT,
    .parameters = "FILE...",
    .summary = "Makes one snapshot of those of many processes.",
    .extra = entries,
    .run = run,
};
