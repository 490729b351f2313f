// SPDX-License-Identifier: MIT
/*
 * Collapsed stacks: "outermost;...;innermost BYTES", what flamegraph.pl and its
 * kin read. With a base each line has two numbers, old and new, the form of
 * difffolded.pl, which flamegraph.pl colours by growth.
 */
#include "analyzer/export.h"

#include <inttypes.h>

static void append_stack(GString *out, const struct tm_model *model, guint32 node)
{
    g_autoptr(GArray) sites = g_array_new(FALSE, FALSE, sizeof(guint32));

    for (; node != TM_MODEL_EMPTY; node = tm_model_node(model, node)->parent)
        g_array_append_val(sites, tm_model_node(model, node)->site);
    if (sites->len == 0)
        g_string_append(out, "???");
    for (guint i = sites->len; i-- > 0;) {
        tm_export_append_frame(out, model, g_array_index(sites, guint32, i), ';');
        g_string_append(out, i ? ";" : "");
    }
}

static gboolean write_collapsed(const TmExport *job, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);

    (void)error;
    for (size_t i = 0; i < job->diff->n_rows; i++) {
        const struct tm_change *row = &job->diff->rows[i];

        append_stack(text, job->snapshot->image.model, (guint32)row->id);
        if (job->base)
            g_string_append_printf(text, " %" PRIu64, row->size - (guint64)row->size_diff);
        g_string_append_printf(text, " %" PRIu64 "\n", row->size);
        fwrite(text->str, 1, text->len, job->out);
        g_string_truncate(text, 0);
    }
    return TRUE;
}

const TmExportFormat tm_export_collapsed = {
    .name = "collapsed",
    .suffix = ".folded",
    .needs_diff = TRUE,
    .takes_base = TRUE,
    .frames_max = 1u << 28,
    .write = write_collapsed,
};
