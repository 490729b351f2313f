// SPDX-License-Identifier: MIT
/* What the exports have in common. */
#include "analyzer/export.h"

#include <inttypes.h>

#include "analyzer/core/grouping.h"
#include "analyzer/core/sampled.h"
#include "analyzer/error.h"

/* More than that is no file that another tool reads to its end. */
#define REPEATED_BLOCKS_MAX 100000000u

static void append_clean(GString *out, struct tms_str text, char forbidden)
{
    for (gsize i = 0; i < text.n_bytes; i++) {
        char c = text.bytes[i];
        g_string_append_c(out,
                          (guchar)c < 0x20 || c == 0x7f || (forbidden && c == forbidden) ? ' ' : c);
    }
}

static void append_place(GString *out, const struct tm_model *model,
                         const struct tm_model_site *site, char forbidden)
{
    if (site->kind == TMS_SITE_NATIVE && site->file == TM_MODEL_NO_STRING && site->address) {
        append_clean(out, tm_model_string(model, site->module), forbidden);
        g_string_append_printf(out, "+0x%" PRIx64, site->address);
        return;
    }
    if (site->file == TM_MODEL_NO_STRING)
        g_string_append(out, "???");
    else
        append_clean(out, tm_model_string(model, site->file), forbidden);
    if (site->line > 0)
        g_string_append_printf(out, ":%d", site->line);
}

void tm_export_append_frame(GString *out, const struct tm_model *model, guint32 id, char forbidden)
{
    const struct tm_model_site *site = tm_model_site(model, id);

    if (site->function == TM_MODEL_NO_STRING) {
        append_place(out, model, site, forbidden);
        return;
    }
    append_clean(out, tm_model_string(model, site->function), forbidden);
    g_string_append(out, " (");
    append_place(out, model, site, forbidden);
    g_string_append_c(out, ')');
}

void tm_export_append_function(GString *out, const struct tm_model *model, guint32 id)
{
    const struct tm_model_site *site = tm_model_site(model, id);

    if (site->function == TM_MODEL_NO_STRING)
        append_place(out, model, site, 0);
    else
        append_clean(out, tm_model_string(model, site->function), 0);
}

gint64 tm_export_repeat(TmRepeat *repeat, guint64 size_bytes, double count)
{
    double wanted = count;

    if (repeat->mean_bytes == 0)
        return (gint64)count;
    if (size_bytes > 0)
        wanted += repeat->owed_bytes / (double)size_bytes;
    wanted += wanted < 0 ? -0.5 : 0.5;
    if (size_bytes > 0)
        repeat->owed_bytes += (count - (double)(gint64)wanted) * (double)size_bytes;
    return (gint64)wanted;
}

gboolean tm_export_check_repeats(TmSnapshot *snapshot, const char *format, GError **error)
{
    struct tms_error reason = {0};
    struct tm_groups groups;
    gboolean ok;

    if (tm_sampled_mean(&snapshot->file) == 0)
        return TRUE;
    if (!tm_groups_make(&snapshot->image, TM_BY_FILE, TM_GROUP_DEFAULT, &groups, &reason)) {
        tm_error_set_from_reader(error, &reason);
        return FALSE;
    }
    ok = groups.count <= REPEATED_BLOCKS_MAX ||
         tm_error_data(error,
                       "The samples stand for %" G_GUINT64_FORMAT " blocks, more than a file for "
                       "%s may have: pprof and collapsed sum them up",
                       groups.count, format);
    tm_groups_done(&groups);
    return ok;
}

static guint64 count_frames(const guint32 *depths, const struct tm_groups *groups)
{
    guint64 n_frames = 0;

    for (size_t i = 0; i < groups->n_items; i++)
        n_frames += depths[groups->items[i].id];
    return n_frames;
}

gboolean tm_export_check_frames(const TmExportFormat *format, const struct tm_model *model,
                                const struct tm_groups *now, const struct tm_groups *then,
                                GError **error)
{
    g_autofree guint32 *depths = NULL;
    guint64 n_frames;

    if (!format->frames_max)
        return TRUE;
    depths = g_new0(guint32, model->nodes.count);
    for (guint32 n = 1; n < model->nodes.count; n++) /* A parent has the smaller id. */
        depths[n] = depths[tm_model_node(model, n)->parent] + 1;
    n_frames = count_frames(depths, now) + (then ? count_frames(depths, then) : 0);
    return n_frames <= format->frames_max ||
           tm_error_data(error,
                         "The tracebacks have %" G_GUINT64_FORMAT " frames in all, %s can have "
                         "%" G_GUINT64_FORMAT ": leave some out by -i or -I",
                         n_frames, format->name, format->frames_max);
}
