// SPDX-License-Identifier: MIT
/* DisplayTop. The forms are pinned by tests/analyzer/test_top.py. */
#include "analyzer/render.h"

#include <inttypes.h>

#include "analyzer/core/size.h"
#include "analyzer/metrics.h"
#include "analyzer/source.h"
#include "analyzer/text.h"

const char *tm_render_noun(enum tm_group_by by)
{
    static const char *const nouns[TM_BY_COUNT] = {
        "filename and line number",
        "filename",
        "function",
        "traceback",
        "address",
        "domain",
        "size class",
        "thread",
        "age",
        "type",
        "module",
    };
    return nouns[by];
}

static void append_line(GString *out, gboolean color, struct tms_str file, gint32 line, int parts)
{
    tm_text_append_filename(out, color, file, parts);
    if (line > 0)
        g_string_append_printf(out, ":%d", line);
    else
        g_string_append(out, ":?");
}

static void append_site(GString *out, const struct tm_model *model, guint32 id, gboolean color,
                        int parts)
{
    const struct tm_model_site *site = tm_model_site(model, id);

    if (site->kind == TMS_SITE_NATIVE && site->file == TM_MODEL_NO_STRING && site->address)
        g_string_append_printf(out, "0x%" PRIx64, site->address);
    else
        append_line(out, color, tm_model_string(model, site->file), site->line, parts);
}

static void append_function(GString *out, struct tms_str function)
{
    if (function.n_bytes)
        tm_text_append_safe(out, function);
    else
        g_string_append(out, "???");
}

GPtrArray *tm_render_frames(const struct tm_model *model, guint32 node)
{
    GPtrArray *frames = g_ptr_array_new_with_free_func(g_free);

    for (; node != TM_MODEL_EMPTY; node = tm_model_node(model, node)->parent) {
        const struct tm_model_site *site = tm_model_site(model, tm_model_node(model, node)->site);
        GString *text = g_string_new(NULL);

        append_site(text, model, tm_model_node(model, node)->site, FALSE, G_MAXINT);
        if (site->function != TM_MODEL_NO_STRING) {
            g_string_append(text, " (");
            append_function(text, tm_model_string(model, site->function));
            g_string_append_c(text, ')');
        }
        g_ptr_array_add(frames, g_string_free(text, FALSE));
    }
    return frames;
}

static void append_traceback_key(GString *out, const struct tm_model *model, guint32 node,
                                 gboolean color, int parts)
{
    guint n_frames = 0;

    if (node == TM_MODEL_EMPTY) {
        g_string_append(out, "???:?");
        return;
    }
    for (guint32 n = node; n != TM_MODEL_EMPTY; n = tm_model_node(model, n)->parent)
        n_frames++;
    append_site(out, model, tm_model_node(model, node)->site, color, parts);
    if (n_frames > 1)
        g_string_append_printf(out, " (%u frames)", n_frames);
}

static void append_number_key(GString *out, enum tm_group_by by, guint64 value, gboolean color)
{
    static const char *const domains[] = {"raw", "mem", "obj"};
    g_autofree char *address = NULL;

    switch (by) {
    case TM_BY_ADDRESS:
        address = g_strdup_printf("0x%" PRIx64, value);
        g_string_append(out, "memory block ");
        tm_text_append_styled(out, color, TM_STYLE_BOLD, address);
        break;
    case TM_BY_DOMAIN:
        g_string_append(out, value < 3 ? domains[value] : "???");
        break;
    case TM_BY_SIZE_CLASS:
        g_string_append_printf(out, "blocks of up to %" PRIu64 " B", value);
        break;
    case TM_BY_THREAD:
        g_string_append(out, "thread ");
        if (value)
            g_string_append_printf(out, "%" PRIu64, value);
        else
            g_string_append(out, "???");
        break;
    default:
        if (value)
            g_string_append_printf(out, "since snapshot %" PRIu64, value);
        else
            g_string_append(out, "before the first snapshot");
        break;
    }
}

void tm_render_key(GString *out, const struct tm_model *model, enum tm_group_by by, guint64 id,
                   gboolean color, int parts)
{
    struct tm_group_label label = tm_group_describe(model, by, id);

    switch (by) {
    case TM_BY_LINE:
        append_line(out, color, label.file, label.line, parts);
        break;
    case TM_BY_FILE:
    case TM_BY_MODULE:
        tm_text_append_filename(out, color, label.file, parts);
        break;
    case TM_BY_FUNCTION:
        append_function(out, label.function);
        g_string_append(out, " (");
        tm_text_append_filename(out, color, label.file, parts);
        g_string_append_c(out, ')');
        break;
    case TM_BY_TYPE:
        append_function(out, label.file);
        break;
    case TM_BY_TRACEBACK:
        append_traceback_key(out, model, label.node, color, parts);
        break;
    default:
        append_number_key(out, by, id, color);
        break;
    }
}

/* --- amounts --- */

typedef struct {
    const TmOptions *options;
    gboolean has_old;
    gboolean count; /* whether the grouping counts at all: an address is one block */
} Style;

static void append_size(GString *out, const Style *style, const struct tm_change *row)
{
    gboolean color = style->options->color;
    char text[TM_SIZE_TEXT];

    tm_size_format((gint64)row->size, TM_SIZE_PLAIN, text);
    tm_text_append_styled(out, color, style->has_old ? TM_STYLE_BOLD : TM_STYLE_YELLOW, text);
    if (!style->has_old)
        return;
    g_string_append(out, " (");
    tm_size_format(row->size_diff, TM_SIZE_SIGNED, text);
    tm_text_append_styled(out, color, TM_STYLE_YELLOW, text);
    g_string_append_c(out, ')');
}

static void append_amounts(GString *out, const Style *style, const struct tm_change *row)
{
    const TmOptions *options = style->options;
    gboolean bare = options->hide_count && options->hide_average;
    const char *comma = "";
    char text[TM_SIZE_TEXT];

    if (!options->hide_size) {
        g_string_append(out, bare ? "" : "size=");
        append_size(out, style, row);
        comma = ", ";
    }
    if (!options->hide_count && style->count && (row->count || row->count_diff)) {
        g_string_append_printf(out, "%scount=%" PRIu64, comma, row->count);
        if (style->has_old)
            g_string_append_printf(out, " (%+" PRId64 ")", row->count_diff);
        comma = ", ";
    }
    if (!options->hide_average && row->count > 1)
        g_string_append_printf(
            out, "%saverage=%s", comma,
            tm_size_format((gint64)(row->size / row->count), TM_SIZE_PLAIN, text));
}

/* --- the parts of a top --- */

static void append_header(GString *out, const TmTop *top, gboolean color)
{
    g_autofree char *now = tm_text_timestamp(top->snapshot->file.timestamp_ns);
    g_autofree char *title =
        g_strdup_printf("%s %zu allocations per %s", top->cumulative ? "Cumulative top" : "Top",
                        top->diff->n_rows, tm_render_noun(top->by));

    tm_text_append_styled(out, color, TM_STYLE_BOLD, now);
    g_string_append(out, ": ");
    tm_text_append_styled(out, color, TM_STYLE_CYAN, title);
    if (top->previous) {
        g_autofree char *then = tm_text_timestamp(top->previous->file.timestamp_ns);
        g_string_append(out, " (compared to ");
        tm_text_append_styled(out, color, TM_STYLE_BOLD, then);
        g_string_append_c(out, ')');
    }
    g_string_append_c(out, '\n');
}

static void append_frames(GString *out, const TmTop *top, guint32 node, const TmOptions *options)
{
    const struct tm_model *model = top->snapshot->image.model;

    if (node == TM_MODEL_EMPTY)
        return;
    for (node = tm_model_node(model, node)->parent; node != TM_MODEL_EMPTY;
         node = tm_model_node(model, node)->parent) {
        g_string_append(out, "    ");
        append_site(out, model, tm_model_node(model, node)->site, options->color,
                    options->filename_parts);
        g_string_append_c(out, '\n');
    }
}

/* Only with --source-root: the documented output has no source lines. */
static void append_source(GString *out, const TmTop *top, guint64 id, TmSource *source)
{
    struct tm_group_label label = tm_group_describe(top->snapshot->image.model, top->by, id);
    const char *text = source ? tm_source_line(source, label.file, label.line) : NULL;

    if (text)
        g_string_append_printf(out, "    %s\n", text);
}

static void append_items(GString *out, const TmTop *top, const Style *style)
{
    const struct tm_model *model = top->snapshot->image.model;
    const char *root = style->options->source_root;
    g_autoptr(TmSource) source = root && top->by == TM_BY_LINE ? tm_source_new(root) : NULL;

    for (size_t i = 0; i < top->diff->n_rows; i++) {
        const struct tm_change *row = &top->diff->rows[i];
        g_autoptr(GString) amounts = g_string_new(NULL);

        g_string_append_printf(out, "#%zu: ", i + 1);
        tm_render_key(out, model, top->by, row->id, style->options->color,
                      style->options->filename_parts);
        append_amounts(amounts, style, row);
        g_string_append_printf(out, "%s%s\n", amounts->len ? ": " : "", amounts->str);
        if (top->by == TM_BY_TRACEBACK)
            append_frames(out, top, (guint32)row->id, style->options);
        append_source(out, top, row->id, source);
    }
}

static void append_sums(GString *out, const TmTop *top, const Style *style)
{
    size_t n_more = top->diff->n_groups - top->diff->n_rows;

    if (n_more) {
        g_autofree char *more = g_strdup_printf("%zu more", n_more);
        tm_text_append_styled(out, style->options->color, TM_STYLE_CYAN, more);
        g_string_append(out, ": ");
        append_amounts(out, style, &top->diff->rest);
        g_string_append_c(out, '\n');
    }
    if (!top->cumulative) {
        g_string_append(out, "Traced Python memory: ");
        append_amounts(out, style, &top->diff->total);
        g_string_append_c(out, '\n');
    }
}

static const char *size_text(double n_bytes, char text[TM_SIZE_TEXT])
{
    return tm_size_format(n_bytes < 0x1p62 ? (gint64)n_bytes : G_MAXINT64, TM_SIZE_PLAIN, text);
}

void tm_render_estimate(GString *out, const struct tm_estimate *estimate)
{
    char mean[TM_SIZE_TEXT], bound[TM_SIZE_TEXT];

    g_string_append_printf(out,
                           "about one block in %s was recorded: sizes and counts are estimates "
                           "from %" PRIu64 " blocks, the total within %s (95 %%)",
                           size_text(estimate->mean_bytes, mean), estimate->samples,
                           size_text(estimate->error_bytes, bound));
}

static void append_estimate(GString *out, const TmTop *top)
{
    char text[TM_SIZE_TEXT];

    if (top->estimate.mean_bytes != 0) {
        g_string_append(out, "Sampled: ");
        tm_render_estimate(out, &top->estimate);
    }
    if (top->change_error_bytes > 0)
        g_string_append_printf(out, "%sits change within %s",
                               top->estimate.mean_bytes != 0 ? ", " : "Sampled before: ",
                               size_text(top->change_error_bytes, text));
    if (top->estimate.mean_bytes != 0 || top->change_error_bytes > 0)
        g_string_append_c(out, '\n');
}

void tm_render_top(const TmTop *top, const TmOptions *options, FILE *out)
{
    g_autoptr(GString) text = g_string_new(NULL);
    Style style = {options, top->diff->has_old, top->by != TM_BY_ADDRESS};

    append_header(text, top, options->color);
    append_items(text, top, &style);
    append_sums(text, top, &style);
    append_estimate(text, top);
    if (!options->hide_metrics)
        tm_metrics_append(text, &top->snapshot->file, top->previous ? &top->previous->file : NULL,
                          options->color);
    g_string_append_c(text, '\n');
    fwrite(text->str, 1, text->len, out);
}
