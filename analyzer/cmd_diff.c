// SPDX-License-Identifier: MIT
/* tm-analyze diff OLD NEW [NEWER...]: what grew. */
#include "analyzer/command.h"
#include "analyzer/report.h"

static TmExit run(const TmOptions *options, GError **error)
{
    g_autoptr(TmSession) session = NULL;
    gboolean exceeded = FALSE;

    if (options->files[0] == NULL) {
        tm_error_usage(error, "diff needs two snapshots or more");
        return TM_EXIT_USAGE;
    }
    session = tm_session_open(options->files, TM_PROGRESS_LONG, error);
    if (session == NULL)
        return TM_EXIT_DATA;
    if (session->snapshots->len < 2) {
        tm_error_usage(error, "diff needs two snapshots or more");
        return TM_EXIT_USAGE;
    }
    if ((options->by == TM_BY_ADDRESS && !tm_session_require_addresses(session, error)) ||
        !tm_session_filter(session, (const void *)options->filters->data, options->filters->len,
                           error) ||
        !tm_report(session, "diff", TM_REPORT_DIFFS, options, TM_PROGRESS_LONG, &exceeded, error))
        return TM_EXIT_DATA;
    return exceeded ? TM_EXIT_FAIL_OVER : TM_EXIT_OK;
}

const TmCommand tm_cmd_diff = {
    .name = "diff",
    .takes = TM_TAKES_GROUPING | TM_TAKES_FILTERS | TM_TAKES_DISPLAY | TM_TAKES_FIRST |
             TM_TAKES_FAIL_OVER | TM_TAKES_SOURCE | TM_TAKES_OUTPUT,
    .parameters = "OLD NEW [NEWER...]",
    .summary = "Shows what changed between snapshots, the largest change first.",
    .run = run,
};
