// SPDX-License-Identifier: MIT
/* Tops and differences of a whole session, as text, JSON or CSV: what top, diff and the documented
 * command line have in common. */
#pragma once

#include "analyzer/options.h"
#include "analyzer/session.h"

typedef enum {
    TM_REPORT_TOPS,  /* each snapshot for itself */
    TM_REPORT_DIFFS, /* each but the first, compared with an older one */
    TM_REPORT_BOTH,  /* each; compared where there is an older one */
} TmReportKind;

/* *ret_exceeded: the amount of --fail-over was exceeded, by the memory of a snapshot (tops) or by
 * the growth of a comparison (the others). */
gboolean tm_report(TmSession *session, const char *command, TmReportKind kind,
                   const TmOptions *options, TmProgress progress, gboolean *ret_exceeded,
                   GError **error);
