// SPDX-License-Identifier: MIT
/*
 * The standard library's tracemalloc.Snapshot as a pickle of protocol 3, which
 * every Python from 3.0 on loads. Tuples of 3 are what 3.6 to 3.8 filter, of 4
 * what 3.9 on does, of 2 what 3.4 and 3.5 had. The rest of what the snapshot
 * knows goes into further attributes: plain numbers, strings and containers. A
 * sampled trace is in it as often as it stands for blocks, with sample_bytes to
 * tell.
 */
#include "analyzer/export.h"

#include <stdlib.h>
#include <string.h>

#include "analyzer/core/sampled.h"
#include "analyzer/core/scan.h"
#include "analyzer/error.h"
#include "analyzer/metrics.h"
#include "format/sampling.h"

/* Items that are collected before APPENDS or SETITEMS takes them, as CPython's pickler does. */
#define BATCH_ITEMS 1000

/* Frames of all tracebacks together, which share theirs in a .tms but not here: 1.3 GB. */
#define FRAMES_MAX (1u << 28)

typedef struct {
    FILE *out;
    const TmExport *job;
    const struct tms_file *file;
    guint32 n_memo;
    guint32 *memo_of_string, *memo_of_site, *memo_of_node; /* id + 1 in the memo; 0: none yet */
    guint64 n_traces;
    gboolean addresses; /* what the pass over the traces writes */
    TmRepeat repeat;
} Writer;

static void put(const Writer *w, const void *bytes, gsize n_bytes)
{
    fwrite(bytes, 1, n_bytes, w->out);
}

#define PUT_LITERAL(w, text) put(w, text, sizeof(text) - 1)

static void put_le(const Writer *w, guint64 value, guint n_bytes)
{
    for (guint i = 0; i < n_bytes; i++)
        fputc((int)(value >> (8 * i) & 0xff), w->out);
}

static void put_int(const Writer *w, gint64 value)
{
    if (value >= 0 && value <= 0xff) {
        fputc('K', w->out);
        put_le(w, (guint64)value, 1);
    } else if (value >= 0 && value <= 0xffff) {
        fputc('M', w->out);
        put_le(w, (guint64)value, 2);
    } else if (value >= G_MININT32 && value <= G_MAXINT32) {
        fputc('J', w->out);
        put_le(w, (guint64)value, 4);
    } else {
        put(w, "\x8a\x08", 2);
        put_le(w, (guint64)value, 8);
    }
}

static void put_float(const Writer *w, double value)
{
    guint64 bits;

    memcpy(&bits, &value, sizeof bits);
    fputc('G', w->out);
    for (int i = 7; i >= 0; i--)
        fputc((int)(bits >> (8 * i) & 0xff), w->out);
}

static void put_str(const Writer *w, struct tms_str text)
{
    fputc('X', w->out);
    put_le(w, text.n_bytes, 4);
    put(w, text.bytes, text.n_bytes);
}

static void put_text(const Writer *w, const char *text)
{
    put_str(w, (struct tms_str){text, strlen(text)});
}

static guint32 memoize(Writer *w)
{
    fputc('r', w->out);
    put_le(w, w->n_memo, 4);
    return ++w->n_memo;
}

/* Whether the value is in the memo already, and now on the stack. */
static gboolean recall(const Writer *w, guint32 memo)
{
    if (memo == 0)
        return FALSE;
    fputc('j', w->out);
    put_le(w, memo - 1, 4);
    return TRUE;
}

static void put_file_name(Writer *w, guint32 id)
{
    guint32 slot = id < w->file->n_strings ? id : w->file->n_strings;

    if (recall(w, w->memo_of_string[slot]))
        return;
    if (slot == w->file->n_strings)
        put_text(w, "<unknown>"); /* What tracemalloc itself says. */
    else
        put_str(w, tms_file_string(w->file, id));
    w->memo_of_string[slot] = memoize(w);
}

static void put_frame(Writer *w, guint32 id)
{
    guint32 slot = id < w->file->n_sites ? id : w->file->n_sites;
    const struct tms_site *site = id < w->file->n_sites ? &w->file->sites[id] : NULL;

    if (recall(w, w->memo_of_site[slot]))
        return;
    put_file_name(w, site ? site->file : TMS_NO_ID);
    put_int(w, site && site->line > 0 ? site->line : 0);
    fputc(0x86, w->out);
    w->memo_of_site[slot] = memoize(w);
}

static guint32 put_traceback(Writer *w, guint32 node)
{
    guint32 n_frames = 0, n = node;

    for (; n; n = w->file->nodes[n].parent)
        n_frames++;
    if (recall(w, w->memo_of_node[node]))
        return node ? n_frames : 1;
    fputc('(', w->out);
    for (n = node; n; n = w->file->nodes[n].parent)
        put_frame(w, w->file->nodes[n].site);
    if (node == 0) {
        /* The standard library takes frame 0 of every traceback. */
        put_frame(w, TMS_NO_ID);
        n_frames = 1;
    }
    fputc('t', w->out);
    w->memo_of_node[node] = memoize(w);
    return n_frames;
}

static void put_trace(Writer *w, guint64 size_bytes, guint32 node)
{
    guint32 n_frames;

    if (w->job->tuple_items == 4)
        fputc('(', w->out);
    /* The standard library's domain 0 is all that Python allocates. */
    if (w->job->tuple_items > 2)
        put_int(w, 0);
    put_int(w, (gint64)size_bytes);
    n_frames = put_traceback(w, node);
    if (w->job->tuple_items == 4)
        put_int(w, n_frames);
    fputc(w->job->tuple_items == 4 ? 't' : w->job->tuple_items == 3 ? 0x87 : 0x86, w->out);
}

static gint64 repeats(Writer *w, guint64 size_bytes)
{
    double mean_bytes = w->repeat.mean_bytes;

    if (mean_bytes == 0)
        return 1;
    return tm_export_repeat(&w->repeat, size_bytes, 1 / tm_sampling_chance(size_bytes, mean_bytes));
}

/* A trace, or its address, n times. */
static void put_item(Writer *w, guint64 address, guint64 size_bytes, guint32 node, gint64 n)
{
    guint32 memo = 0;

    for (gint64 i = 0; i < n; i++) {
        if (w->n_traces++ % BATCH_ITEMS == 0)
            put(w, w->n_traces > 1 ? "e(" : "(", w->n_traces > 1 ? 2 : 1);
        if (w->addresses)
            put_int(w, (gint64)address);
        else if (!recall(w, memo))
            put_trace(w, size_bytes, node);
        if (i == 0 && n > 1 && !w->addresses)
            memo = memoize(w);
    }
}

static bool put_rows(void *state, const struct tm_batch *batch)
{
    Writer *w = state;
    const uint8_t *keep = w->job->snapshot->image.keep_node;

    for (guint32 i = 0; i < batch->count; i++) {
        guint32 node = batch->column.node[i];
        guint64 size_bytes = batch->column.size_bytes[i];
        if (keep && !keep[node])
            continue;
        put_item(w, batch->column.address[i], size_bytes, node, repeats(w, size_bytes));
    }
    return !ferror(w->out);
}

/* A list of all traces, or of their addresses. */
static gboolean put_list(Writer *w, gboolean addresses, GError **error)
{
    struct tms_error reason = {0};
    void *states[1] = {w};

    w->addresses = addresses;
    w->n_traces = 0;
    w->repeat = (TmRepeat){.mean_bytes = tm_sampled_mean(w->file)}; /* the same for both lists */
    fputc(']', w->out);
    if (!tm_scan(w->file, TM_SCAN_ADDRESS | TM_SCAN_NODE | TM_SCAN_SIZE, put_rows, states, 1,
                 &reason)) {
        tm_error_set_from_reader(error, &reason);
        return FALSE;
    }
    if (w->n_traces)
        fputc('e', w->out);
    return TRUE;
}

static void put_metrics(Writer *w)
{
    static const char *const formats[] = {"int", "size", "percent"};
    g_autoptr(GArray) metrics = tm_metrics_get(w->file, NULL);

    put(w, "}(", 2);
    for (guint i = 0; i < metrics->len; i++) {
        const TmMetric *metric = &g_array_index(metrics, TmMetric, i);
        put_str(w, metric->name);
        if (metric->format == TMS_METRIC_PERCENT)
            put_float(w, metric->f);
        else
            put_int(w, metric->i);
        put_text(w, formats[metric->format]);
        fputc(0x86, w->out);
    }
    fputc('u', w->out);
}

static int compare_lines(const void *a, const void *b)
{
    struct tm_group_label x = *(const struct tm_group_label *)a;
    struct tm_group_label y = *(const struct tm_group_label *)b;

    if (x.file.bytes != y.file.bytes)
        return x.file.bytes < y.file.bytes ? -1 : 1;
    return (x.line > y.line) - (x.line < y.line);
}

/* {file: {line: (size, count)}}; labels carry the index of their group in `value`. */
static gboolean put_stats(Writer *w, GError **error)
{
    struct tm_image *image = &w->job->snapshot->image;
    struct tms_error reason = {0};
    struct tm_groups groups;
    g_autofree struct tm_group_label *labels = NULL;
    gboolean open = FALSE;

    if (!tm_groups_make(image, TM_BY_LINE, TM_GROUP_DEFAULT, &groups, &reason)) {
        tm_error_set_from_reader(error, &reason);
        return FALSE;
    }
    labels = g_new(struct tm_group_label, groups.n_items + 1);
    for (size_t i = 0; i < groups.n_items; i++) {
        labels[i] = tm_group_describe(image->model, TM_BY_LINE, groups.items[i].id);
        labels[i].value = i;
    }
    /* Interned strings are equal where their bytes are at the same place. */
    qsort(labels, groups.n_items, sizeof *labels, compare_lines);
    put(w, "}(", 2);
    for (size_t i = 0; i < groups.n_items; i++) {
        const struct tm_group *item = &groups.items[labels[i].value];
        if (i == 0 || labels[i].file.bytes != labels[i - 1].file.bytes) {
            if (open)
                fputc('u', w->out);
            if (labels[i].file.n_bytes)
                put_str(w, labels[i].file);
            else
                fputc('N', w->out);
            put(w, "}(", 2);
            open = TRUE;
        }
        if (labels[i].line)
            put_int(w, labels[i].line);
        else
            fputc('N', w->out);
        put_int(w, (gint64)item->bytes);
        put_int(w, (gint64)item->count);
        fputc(0x86, w->out);
    }
    if (open)
        fputc('u', w->out);
    fputc('u', w->out);
    tm_groups_done(&groups);
    return TRUE;
}

static gboolean put_traces(Writer *w, GError **error)
{
    PUT_LITERAL(w, "ctracemalloc\n_Traces\n)\x81}");
    put_text(w, "_traces");
    if (!put_list(w, FALSE, error))
        return FALSE;
    put(w, "sb", 2);
    return TRUE;
}

static gboolean put_snapshot(Writer *w, GError **error)
{
    struct tm_image *image = &w->job->snapshot->image;
    gboolean has_traces = tm_image_has_traces(image);

    PUT_LITERAL(w, "\x80\x03"
                   "ctracemalloc\nSnapshot\n)\x81}(");
    put_text(w, "traces");
    if (!has_traces)
        fputc('N', w->out);
    else if (!put_traces(w, error))
        return FALSE;
    put_text(w, "traceback_limit");
    put_int(w, tm_image_traceback_limit(image));
    put_text(w, "pid");
    put_int(w, w->job->snapshot->pid);
    put_text(w, "timestamp");
    put_float(w, (double)w->file->timestamp_ns / 1e9);
    put_text(w, "timestamp_ns");
    put_int(w, (gint64)w->file->timestamp_ns);
    if (has_traces && tms_file_fact_i64(w->file, "addresses", 1)) {
        put_text(w, "addresses");
        if (!put_list(w, TRUE, error))
            return FALSE;
    }
    if (tm_sampled_mean(w->file) != 0) {
        put_text(w, "sample_bytes");
        put_int(w, (gint64)tm_sampled_mean(w->file));
    }
    put_text(w, "metrics");
    put_metrics(w);
    put_text(w, "stats");
    if (!put_stats(w, error))
        return FALSE;
    put(w, "ub.", 3);
    return TRUE;
}

/* By the tracebacks that traces have, where those of the whole file are too many. */
static gboolean check_frames(TmSnapshot *snapshot, GError **error)
{
    struct tms_error reason = {0};
    struct tm_groups groups;
    gboolean ok;

    if (!tm_groups_make(&snapshot->image, TM_BY_TRACEBACK, TM_GROUP_DEFAULT, &groups, &reason)) {
        tm_error_set_from_reader(error, &reason);
        return FALSE;
    }
    ok = tm_export_check_frames(&tm_export_pickle, snapshot->image.model, &groups, NULL, error);
    tm_groups_done(&groups);
    return ok;
}

static gboolean may_have_too_many_frames(const struct tms_file *file)
{
    g_autofree guint32 *depths = g_new0(guint32, file->n_nodes + 1);
    guint64 n_frames = 0;

    for (guint32 n = 1; n < file->n_nodes; n++) {
        depths[n] = depths[file->nodes[n].parent] + 1;
        n_frames += depths[n];
    }
    return n_frames > FRAMES_MAX;
}

static gboolean write_pickle(const TmExport *job, GError **error)
{
    Writer w = {.out = job->out, .job = job, .file = &job->snapshot->file};
    gboolean ok;

    if (!tm_export_check_repeats(job->snapshot, "pickle", error) ||
        (may_have_too_many_frames(w.file) && !check_frames(job->snapshot, error)))
        return FALSE;
    w.memo_of_string = g_new0(guint32, w.file->n_strings + 1);
    w.memo_of_site = g_new0(guint32, w.file->n_sites + 1);
    w.memo_of_node = g_new0(guint32, w.file->n_nodes + 1);
    ok = put_snapshot(&w, error);
    g_free(w.memo_of_string);
    g_free(w.memo_of_site);
    g_free(w.memo_of_node);
    return ok;
}

const TmExportFormat tm_export_pickle = {
    .name = "pickle",
    .suffix = ".pickle",
    .frames_max = FRAMES_MAX,
    .write = write_pickle,
};
