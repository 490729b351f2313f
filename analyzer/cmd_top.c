// SPDX-License-Identifier: MIT
/* tm-analyze top FILE...: what holds memory. */
#include "analyzer/command.h"
#include "analyzer/report.h"

static TmExit run(const TmOptions *options, GError **error)
{
    g_autoptr(TmSession) session = NULL;
    gboolean exceeded = FALSE;

    if (options->files[0] == NULL) {
        tm_error_usage(error, "top needs a snapshot");
        return TM_EXIT_USAGE;
    }
    session = tm_session_open(options->files, TM_PROGRESS_LONG, error);
    if (session == NULL ||
        (options->by == TM_BY_ADDRESS && !tm_session_require_addresses(session, error)) ||
        !tm_session_filter(session, (const void *)options->filters->data, options->filters->len,
                           error) ||
        !tm_report(session, "top", TM_REPORT_TOPS, options, TM_PROGRESS_LONG, &exceeded, error))
        return TM_EXIT_DATA;
    return exceeded ? TM_EXIT_FAIL_OVER : TM_EXIT_OK;
}

const TmCommand tm_cmd_top = {
    .name = "top",
    .takes = TM_TAKES_GROUPING | TM_TAKES_FILTERS | TM_TAKES_DISPLAY | TM_TAKES_FAIL_OVER |
             TM_TAKES_SOURCE | TM_TAKES_OUTPUT,
    .parameters = "FILE...",
    .summary = "Shows what holds the most memory in each snapshot.",
    .run = run,
};
