// SPDX-License-Identifier: MIT
/* Copies what snapshots hold into one new .tms file. */
#pragma once

#include "analyzer/builder.h"
#include "analyzer/session.h"

/* What the filters keep of each snapshot goes to fd, an empty regular file. Traces, counters and
 * metrics add up; facts come from the last snapshot. */
gboolean tm_copy_snapshots(TmSession *session, int fd, GError **error);
