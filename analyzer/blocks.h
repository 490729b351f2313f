// SPDX-License-Identifier: MIT
/* Single memory blocks and their tracebacks: -b and -t of the documented command line, and the
 * commands block and traceback. */
#pragma once

#include "analyzer/options.h"
#include "analyzer/session.h"

/* The block at options->block_address in every snapshot. Not found in any: an error. */
gboolean tm_blocks_show_one(TmSession *session, const char *command, const TmOptions *options,
                            GError **error);
/* The options->number biggest blocks of every snapshot. */
gboolean tm_blocks_show_biggest(TmSession *session, const char *command, const TmOptions *options,
                                GError **error);
