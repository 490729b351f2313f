// SPDX-License-Identifier: MIT
/* Single memory blocks and their tracebacks: -b and -t of the documented command line, and the
 * commands block and traceback. */
#pragma once

#include "analyzer/options.h"
#include "analyzer/session.h"
#include "analyzer/source.h"

/* The block at options->block_address in every snapshot; one that does not have it says so. None
 * has it: an error. */
gboolean tm_blocks_show_one(TmSession *session, const char *command, const TmOptions *options,
                            GError **error);
/* The options->number biggest blocks of every snapshot. */
gboolean tm_blocks_show_biggest(TmSession *session, const char *command, const TmOptions *options,
                                GError **error);

/* "Traceback (most recent call first):" and the frames of a node of the model. */
void tm_blocks_append_traceback(GString *out, const struct tm_model *model, guint32 node,
                                TmSource *source);
