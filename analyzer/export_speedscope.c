// SPDX-License-Identifier: MIT
/*
 * speedscope's own JSON: sampled profiles, stacks outermost first. Without a
 * base there is one of bytes and one of blocks; with one, growth and shrinkage
 * are profiles of their own, since weights must not be negative.
 */
#include "analyzer/export.h"

#include <inttypes.h>
#include <string.h>

#include "analyzer/document.h"

typedef struct {
    const TmExport *job;
    const struct tm_model *model;
    guint32 *frame_of_site; /* index + 1 */
    GString *frames;
    guint32 n_frames;
} Writer;

typedef enum { WEIGH_BYTES, WEIGH_BLOCKS, WEIGH_GROWTH, WEIGH_SHRINKAGE } Weight;

static guint64 weigh(const struct tm_change *row, Weight weight)
{
    switch (weight) {
    case WEIGH_BYTES:
        return row->size;
    case WEIGH_BLOCKS:
        return row->count;
    case WEIGH_GROWTH:
        return row->size_diff > 0 ? (guint64)row->size_diff : 0;
    default:
        return row->size_diff < 0 ? 0 - (guint64)row->size_diff : 0;
    }
}

static guint32 add_frame(Writer *w, guint32 id)
{
    const struct tm_model_site *site = tm_model_site(w->model, id);
    g_autoptr(GString) name = NULL;

    if (w->frame_of_site[id])
        return w->frame_of_site[id] - 1;
    name = g_string_new(NULL);
    tm_export_append_function(name, w->model, id);
    g_string_append(w->frames, w->n_frames ? ",\n{\"name\":" : "{\"name\":");
    tm_json_append_string(w->frames, (struct tms_str){name->str, name->len});
    if (site->file != TM_MODEL_NO_STRING) {
        g_string_append(w->frames, ",\"file\":");
        tm_json_append_string(w->frames, tm_model_string(w->model, site->file));
    }
    if (site->line > 0)
        g_string_append_printf(w->frames, ",\"line\":%d", site->line);
    g_string_append_c(w->frames, '}');
    w->frame_of_site[id] = ++w->n_frames;
    return w->n_frames - 1;
}

static void append_stack(Writer *w, GString *out, guint32 node)
{
    g_autoptr(GArray) stack = g_array_new(FALSE, FALSE, sizeof(guint32));

    for (; node != TM_MODEL_EMPTY; node = tm_model_node(w->model, node)->parent) {
        guint32 frame = add_frame(w, tm_model_node(w->model, node)->site);
        g_array_append_val(stack, frame);
    }
    if (stack->len == 0) {
        guint32 frame = add_frame(w, TM_MODEL_NO_SITE);
        g_array_append_val(stack, frame);
    }
    g_string_append_c(out, '[');
    for (guint i = stack->len; i-- > 0;)
        g_string_append_printf(out, i ? "%u," : "%u]", g_array_index(stack, guint32, i));
}

static void append_profile(Writer *w, GString *out, const char *name, Weight weight)
{
    g_autoptr(GString) samples = g_string_new(NULL), weights = g_string_new(NULL);
    const char *comma = "";
    guint64 total = 0;

    for (size_t i = 0; i < w->job->diff->n_rows; i++) {
        const struct tm_change *row = &w->job->diff->rows[i];
        guint64 amount = weigh(row, weight);
        if (amount == 0)
            continue;
        g_string_append(samples, comma);
        append_stack(w, samples, (guint32)row->id);
        g_string_append_printf(weights, "%s%" PRIu64, comma, amount);
        total += amount;
        comma = ",";
    }
    g_string_append_printf(out,
                           "{\"type\":\"sampled\",\"name\":\"%s\",\"unit\":\"%s\",\"startValue\":0,"
                           "\"endValue\":%" PRIu64 ",\n\"samples\":[%s],\n\"weights\":[%s]}",
                           name, weight == WEIGH_BLOCKS ? "none" : "bytes", total, samples->str,
                           weights->str);
}

static gboolean write_speedscope(const TmExport *job, GError **error)
{
    Writer w = {.job = job, .model = job->snapshot->image.model, .frames = g_string_new(NULL)};
    g_autoptr(GString) profiles = g_string_new(NULL), name = g_string_new(NULL);

    (void)error;
    w.frame_of_site = g_new0(guint32, w.model->sites.count);
    append_profile(&w, profiles, job->base ? "growth" : "size",
                   job->base ? WEIGH_GROWTH : WEIGH_BYTES);
    g_string_append(profiles, ",\n");
    append_profile(&w, profiles, job->base ? "shrinkage" : "blocks",
                   job->base ? WEIGH_SHRINKAGE : WEIGH_BLOCKS);
    tm_json_append_string(name, (struct tms_str){job->snapshot->path, strlen(job->snapshot->path)});
    fprintf(job->out,
            "{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\n"
            "\"exporter\":\"tm-analyze " TM_VERSION "\",\"name\":%s,\"activeProfileIndex\":0,\n"
            "\"shared\":{\"frames\":[%s]},\n\"profiles\":[",
            name->str, w.frames->str);
    fwrite(profiles->str, 1, profiles->len, job->out);
    fputs("]}\n", job->out);
    g_string_free(w.frames, TRUE);
    g_free(w.frame_of_site);
    return TRUE;
}

const TmExportFormat tm_export_speedscope = {
    .name = "speedscope",
    .suffix = ".speedscope.json",
    .needs_diff = TRUE,
    .frames_max = 1u << 28,
    .takes_base = TRUE,
    .write = write_speedscope,
};
