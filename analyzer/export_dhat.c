// SPDX-License-Identifier: MIT
/*
 * DHAT's JSON, version 2, which valgrind's dh_view.html shows. Fields are those
 * that its dh_view.js asks for. Block lifetimes are not known of a snapshot, so
 * "bklt" is false and no field claims to know them.
 */
#include "analyzer/export.h"

#include <inttypes.h>
#include <string.h>

#include "analyzer/document.h"

static void append_json(GString *out, const char *text)
{
    tm_json_append_string(out, (struct tms_str){text, strlen(text)});
}

static guint32 add_frame(GString *frames, guint32 *frame_of_site, guint32 *n_frames,
                         const struct tm_model *model, guint32 site)
{
    g_autoptr(GString) text = NULL;

    if (frame_of_site[site])
        return frame_of_site[site];
    text = g_string_new(NULL);
    tm_export_append_frame(text, model, site, 0);
    g_string_append(frames, ",\n  ");
    append_json(frames, text->str);
    frame_of_site[site] = ++*n_frames; /* 0 is "[root]". */
    return *n_frames;
}

static gboolean write_dhat(const TmExport *job, GError **error)
{
    const struct tm_model *model = job->snapshot->image.model;
    g_autofree guint32 *frame_of_site = g_new0(guint32, model->sites.count);
    g_autoptr(GString) points = g_string_new(NULL), frames = g_string_new("\"[root]\"");
    g_autoptr(GString) command = g_string_new(NULL);
    const char *cmdline = tms_file_fact(&job->snapshot->file, "cmdline");
    gint64 enabled_ns = tms_file_fact_i64(&job->snapshot->file, "enabled_ns", 0);
    guint64 end_ns = job->snapshot->file.timestamp_ns;
    guint32 n_frames = 0;

    (void)error;
    /* Its rates are per time since the program began; here since tracing did, if that is known. */
    if (enabled_ns > 0 && (guint64)enabled_ns < end_ns)
        end_ns -= (guint64)enabled_ns;
    for (size_t i = 0; i < job->diff->n_rows; i++) {
        const struct tm_change *row = &job->diff->rows[i];
        guint32 node = (guint32)row->id;

        g_string_append_printf(points, "%s{\"tb\":%" PRIu64 ",\"tbk\":%" PRIu64 ",\"fs\":[",
                               i ? ",\n  " : "", row->size, row->count);
        /* A frame of its own, since dh_view refuses two points with the same frames. */
        if (node == TM_MODEL_EMPTY) {
            g_string_append(frames, ",\n  \"(no traceback)\"");
            g_string_append_printf(points, "%u", ++n_frames);
        }
        for (; node != TM_MODEL_EMPTY; node = tm_model_node(model, node)->parent)
            g_string_append_printf(points, "%u%s",
                                   add_frame(frames, frame_of_site, &n_frames, model,
                                             tm_model_node(model, node)->site),
                                   tm_model_node(model, node)->parent ? "," : "");
        g_string_append(points, "]}");
    }
    append_json(command, cmdline ? cmdline : job->snapshot->path);
    fprintf(job->out,
            "{\"dhatFileVersion\":2,\"mode\":\"tm-live\",\"verb\":\"Live\",\"bklt\":false,"
            "\"bkacc\":false,\n\"tu\":\"us\",\"Mtu\":\"s\",\"cmd\":%s,\"pid\":%" G_GINT64_FORMAT
            ",\"te\":%" PRIu64 ",\n\"pps\":[%s],\n\"ftbl\":[%s]}\n",
            command->str, job->snapshot->pid, end_ns / 1000, points->str, frames->str);
    return TRUE;
}

const TmExportFormat tm_export_dhat = {
    .name = "dhat",
    .suffix = ".dhat.json",
    .needs_diff = TRUE,
    .frames_max = 1u << 28,
    .write = write_dhat,
};
