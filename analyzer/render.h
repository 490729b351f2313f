// SPDX-License-Identifier: MIT
/* Tops and differences as DisplayTop of the API prints them. */
#pragma once

#include <stdio.h>

#include "analyzer/core/compare.h"
#include "analyzer/core/sampled.h"
#include "analyzer/options.h"
#include "analyzer/session.h"

typedef struct {
    const TmSnapshot *snapshot;
    const TmSnapshot *previous; /* NULL: nothing to compare with */
    enum tm_group_by by;
    gboolean cumulative;
    const struct tm_diff *diff;
    struct tm_estimate estimate; /* of the sum of sizes; mean_bytes 0: it is exact */
    double change_error_bytes;   /* of the difference to the previous one; 0: exact or none */
} TmTop;

/* "about one block in 512 KiB was recorded: sizes and counts are estimates ..." */
void tm_render_estimate(GString *out, const struct tm_estimate *estimate);

/* Writes one top, with the blank line that ends it. */
void tm_render_top(const TmTop *top, const TmOptions *options, FILE *out);

/* Key of a group as text; `parts` for file names. */
void tm_render_key(GString *out, const struct tm_model *model, enum tm_group_by by, guint64 id,
                   gboolean color, int parts);
/* "filename and line number": what the header calls a grouping. */
const char *tm_render_noun(enum tm_group_by by);
/* Frames of a traceback as "file:line (function)", most recent first. Strings owned by the array.
 */
GPtrArray *tm_render_frames(const struct tm_model *model, guint32 node);
