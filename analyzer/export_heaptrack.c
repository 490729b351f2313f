// SPDX-License-Identifier: MIT
/*
 * heaptrack's interpreted text, file version 2, which heaptrack_print and
 * heaptrack_gui read. Lines, as src/analyze/accumulatedtracedata.cpp of
 * heaptrack 1.4 takes them, numbers in hex, indices from 1 with 0 for none
 * (allocation infos: from 0):
 *   v VERSION FILE_VERSION   X COMMAND   s STRING   t IP PARENT_TRACE
 *   i ADDRESS MODULE FUNCTION FILE LINE   a SIZE TRACE   + INFO   - INFO   c MILLISECONDS
 * What heaptrack calls leaked is what a snapshot holds. With a base there is a
 * "-" for each block that the base has more of one size and traceback, and a
 * "+" for each that the snapshot has more: "leaked" is the growth then, below 0
 * where memory shrank. A sampled block is as many as it stands for.
 */
#include "analyzer/export.h"

#include <inttypes.h>
#include <string.h>

#include "analyzer/core/intern.h"
#include "analyzer/core/sampled.h"
#include "analyzer/core/scan.h"
#include "analyzer/error.h"
#include "format/sampling.h"

typedef struct {
    FILE *out;
    const TmExport *job;
    const struct tm_model *model;
    guint32 *string_ids, *ip_ids,
        *trace_ids; /* by the model's strings, sites, nodes; 0: none yet */
    guint32 n_strings, n_ips, n_traces;
    struct tm_intern infos; /* of Info */
    GArray *balance; /* by id of info: blocks of the snapshot less those of the base, double */
} Writer;

/* What rows of one snapshot are counted into. */
typedef struct {
    Writer *w;
    const struct tm_image *image;
    double mean_bytes, sign;
} Counter;

typedef struct {
    guint64 size_bytes;
    guint64 trace;
} Info;

static guint32 write_text(Writer *w, struct tms_str text)
{
    fputs("s ", w->out);
    for (gsize i = 0; i < text.n_bytes; i++)
        fputc((guchar)text.bytes[i] < 0x20 ? ' ' : text.bytes[i], w->out);
    fputc('\n', w->out);
    return ++w->n_strings;
}

static guint32 add_string(Writer *w, guint32 id)
{
    if (id != TM_MODEL_NO_STRING && w->string_ids[id] == 0)
        w->string_ids[id] = write_text(w, tm_model_string(w->model, id));
    return w->string_ids[id];
}

static guint32 add_function(Writer *w, guint32 site_id)
{
    g_autoptr(GString) name = NULL;
    const struct tm_model_site *site = tm_model_site(w->model, site_id);

    if (site->function != TM_MODEL_NO_STRING)
        return add_string(w, site->function);
    name = g_string_new(NULL);
    tm_export_append_function(name, w->model, site_id);
    return write_text(w, (struct tms_str){name->str, name->len});
}

static guint32 add_ip(Writer *w, guint32 site_id)
{
    const struct tm_model_site *site = tm_model_site(w->model, site_id);

    if (w->ip_ids[site_id] == 0) {
        guint32 module = add_string(w, site->module);
        guint32 function = add_function(w, site_id);
        guint32 file = add_string(w, site->file);
        /* heaptrack tells frames apart by address; Python's have none, so their number serves. */
        fprintf(w->out, "i %" PRIx64 " %x %x %x %x\n",
                site->address ? site->address : (guint64)site_id + 1, module, function, file,
                (unsigned)site->line);
        w->ip_ids[site_id] = ++w->n_ips;
    }
    return w->ip_ids[site_id];
}

static void add_traces(Writer *w)
{
    /* A parent has the smaller id, so that it is written first. The empty traceback becomes a
     * trace of the unknown site. */
    fprintf(w->out, "t %x 0\n", add_ip(w, TM_MODEL_NO_SITE));
    w->trace_ids[TM_MODEL_EMPTY] = ++w->n_traces;
    for (guint32 n = 1; n < w->model->nodes.count; n++) {
        const struct tm_model_node *node = tm_model_node(w->model, n);
        guint32 ip = add_ip(w, node->site);
        fprintf(w->out, "t %x %x\n", ip,
                node->parent == TM_MODEL_EMPTY ? 0 : w->trace_ids[node->parent]);
        w->trace_ids[n] = ++w->n_traces;
    }
}

static bool count_rows(void *state, const struct tm_batch *batch)
{
    const Counter *counter = state;
    const struct tm_image *image = counter->image;
    Writer *w = counter->w;

    for (guint32 i = 0; i < batch->count; i++) {
        guint32 node = batch->column.node[i], id;
        Info info = {batch->column.size_bytes[i], w->trace_ids[image->node_map[node]]};

        if (image->keep_node && !image->keep_node[node])
            continue;
        id = tm_intern_get(&w->infos, &info);
        if (id == TMS_NO_ID)
            return false;
        if (id >= w->balance->len)
            g_array_set_size(w->balance, id + 1);
        g_array_index(w->balance, double, id) +=
            counter->sign / (counter->mean_bytes == 0
                                 ? 1
                                 : tm_sampling_chance(info.size_bytes, counter->mean_bytes));
    }
    return true;
}

static gboolean count_blocks(Writer *w, TmSnapshot *snapshot, double sign, GError **error)
{
    Counter counter = {w, &snapshot->image, tm_sampled_mean(&snapshot->file), sign};
    struct tms_error reason = {0};
    void *states[1] = {&counter};

    if (tm_scan(&snapshot->file, TM_SCAN_NODE | TM_SCAN_SIZE, count_rows, states, 1, &reason))
        return TRUE;
    tm_error_set_from_reader(error, &reason);
    g_prefix_error(error, "Failed to load %s: ", snapshot->path);
    return FALSE;
}

/* What has gone comes first, so that the peak is not above what there is at the end. */
static void write_blocks(Writer *w)
{
    const Info *infos = w->infos.items;
    TmRepeat repeat = {.mean_bytes = tm_sampled_mean(&w->job->snapshot->file)};
    g_autofree gint64 *blocks = g_new(gint64, w->infos.count + 1);

    if (w->job->base)
        repeat.mean_bytes += tm_sampled_mean(&w->job->base->file);
    for (guint32 id = 0; id < w->infos.count; id++)
        blocks[id] =
            tm_export_repeat(&repeat, infos[id].size_bytes, g_array_index(w->balance, double, id));
    for (guint32 id = 0; id < w->infos.count; id++)
        fprintf(w->out, "a %" PRIx64 " %" PRIx64 "\n", infos[id].size_bytes, infos[id].trace);
    for (int sign = -1; sign <= 1; sign += 2) {
        for (guint32 id = 0; id < w->infos.count; id++) {
            for (gint64 n = sign * blocks[id]; n > 0; n--)
                fprintf(w->out, "%c %x\n", sign < 0 ? '-' : '+', id);
        }
    }
}

static void write_head(const TmExport *job)
{
    const char *cmdline = tms_file_fact(&job->snapshot->file, "cmdline");
    gint64 enabled_ns = tms_file_fact_i64(&job->snapshot->file, "enabled_ns", 0);
    guint64 now_ns = job->snapshot->file.timestamp_ns;

    fprintf(job->out, "v 10400 2\nX %s\nI 1000 0\n", cmdline ? cmdline : job->snapshot->path);
    /* All that a snapshot knows is from one moment. */
    if (enabled_ns > 0 && (guint64)enabled_ns < now_ns)
        fprintf(job->out, "c %" PRIx64 "\n", (now_ns - (guint64)enabled_ns) / 1000000);
}

static gboolean write_heaptrack(const TmExport *job, GError **error)
{
    const struct tm_model *model = job->snapshot->image.model;
    Writer w = {.out = job->out, .job = job, .model = model};
    gboolean ok;

    if (!tm_export_check_repeats(job->snapshot, "heaptrack", error) ||
        (job->base && !tm_export_check_repeats(job->base, "heaptrack", error)))
        return FALSE;
    if (!tm_image_map_nodes(&job->snapshot->image) ||
        (job->base && !tm_image_map_nodes(&job->base->image)))
        return tm_error_data(error, "not enough memory");
    w.string_ids = g_new0(guint32, model->strings.count);
    w.ip_ids = g_new0(guint32, model->sites.count);
    w.trace_ids = g_new0(guint32, model->nodes.count);
    w.balance = g_array_new(FALSE, TRUE, sizeof(double));
    tm_intern_init(&w.infos, sizeof(Info));
    write_head(job);
    add_traces(&w);
    ok = count_blocks(&w, job->snapshot, 1, error) &&
         (!job->base || count_blocks(&w, job->base, -1, error));
    if (ok)
        write_blocks(&w);
    tm_intern_done(&w.infos);
    g_array_unref(w.balance);
    g_free(w.string_ids);
    g_free(w.ip_ids);
    g_free(w.trace_ids);
    return ok;
}

const TmExportFormat tm_export_heaptrack = {
    .name = "heaptrack",
    .suffix = ".heaptrack",
    .takes_base = TRUE,
    .write = write_heaptrack,
};
