// SPDX-License-Identifier: MIT
/* Copying snapshots, one or many, into one file. */
#include "analyzer/copy.h"

#include <string.h>

#include "analyzer/core/scan.h"
#include "analyzer/error.h"

/* Ids of the source file in the builder's terms. */
typedef struct {
    const TmSnapshot *snapshot;
    TmBuilder *builder;
    guint32 *sites, *nodes, *types, *modules;
} Copy;

static guint32 copy_string(const Copy *copy, guint32 id)
{
    return tm_builder_string(copy->builder, tms_file_string(&copy->snapshot->file, id));
}

static void copy_modules(Copy *copy)
{
    const struct tms_file *file = &copy->snapshot->file;

    copy->modules = g_new(guint32, file->n_modules + 1);
    for (guint32 i = 0; i < file->n_modules; i++) {
        struct tms_module module = file->modules[i];
        module.path = copy_string(copy, module.path);
        module.build_id = copy_string(copy, module.build_id);
        copy->modules[i] = tm_builder_module(copy->builder, &module);
    }
}

static void copy_sites(Copy *copy)
{
    const struct tms_file *file = &copy->snapshot->file;

    copy->sites = g_new(guint32, file->n_sites + 1);
    for (guint32 i = 0; i < file->n_sites; i++) {
        struct tms_site site = file->sites[i];
        site.file = copy_string(copy, site.file);
        site.function = copy_string(copy, site.function);
        site.module = site.module < file->n_modules ? copy->modules[site.module] : TMS_NO_ID;
        copy->sites[i] = tm_builder_site(copy->builder, &site);
    }
}

static guint32 map_site(const Copy *copy, guint32 site)
{
    return site < copy->snapshot->file.n_sites ? copy->sites[site] : TMS_NO_ID;
}

static void copy_nodes(Copy *copy)
{
    const struct tms_file *file = &copy->snapshot->file;

    copy->nodes = g_new0(guint32, file->n_nodes + 1);
    for (guint32 i = 1; i < file->n_nodes; i++)
        copy->nodes[i] = tm_builder_node(copy->builder, copy->nodes[file->nodes[i].parent],
                                         map_site(copy, file->nodes[i].site));
}

static void copy_types(Copy *copy)
{
    const struct tms_file *file = &copy->snapshot->file;

    copy->types = g_new0(guint32, file->n_types + 1);
    for (guint32 i = 0; i < file->n_types; i++)
        copy->types[i + 1] = tm_builder_type(copy->builder, tms_file_string(file, file->types[i]));
}

static bool copy_rows(void *state, const struct tm_batch *batch)
{
    const Copy *copy = state;
    const struct tm_columns_view *column = &batch->column;
    const uint8_t *keep = copy->snapshot->image.keep_node;

    for (guint32 i = 0; i < batch->count; i++) {
        struct tms_trace trace = {
            .address = column->address[i],
            .size_bytes = column->size_bytes[i],
            .node = copy->nodes[column->node[i]],
            .age = (uint16_t)MIN(column->age[i], G_MAXUINT16),
            .domain = column->domain[i],
            .type =
                column->type[i] <= copy->snapshot->file.n_types ? copy->types[column->type[i]] : 0,
            .thread = column->thread[i],
        };
        if (!keep || keep[column->node[i]])
            tm_builder_trace(copy->builder, &trace);
    }
    return true;
}

static void copy_stats(const Copy *copy, GHashTable *stats)
{
    const struct tms_file *file = &copy->snapshot->file;

    for (guint32 i = 0; i < file->n_stats; i++) {
        struct tms_stat *to;
        guint32 site = map_site(copy, file->stats[i].site);

        if (copy->snapshot->image.keep_stat && !copy->snapshot->image.keep_stat[i])
            continue;
        to = g_hash_table_lookup(stats, GUINT_TO_POINTER(site));
        if (to == NULL) {
            to = g_new0(struct tms_stat, 1);
            to->site = site;
            g_hash_table_insert(stats, GUINT_TO_POINTER(site), to);
        }
        to->live_bytes += file->stats[i].live_bytes;
        to->live_blocks += file->stats[i].live_blocks;
        to->total_blocks += file->stats[i].total_blocks;
        /* The peaks of several processes were at different times: the sum is a bound. */
        to->peak_bytes += file->stats[i].peak_bytes;
    }
}

static void add_metric(gpointer name, gpointer metric, gpointer builder)
{
    (void)name;
    tm_builder_metric(builder, metric);
}

static void copy_metrics(const Copy *copy, GHashTable *metrics, gboolean many)
{
    const struct tms_file *file = &copy->snapshot->file;

    for (guint32 i = 0; i < file->n_metrics; i++) {
        guint32 name = copy_string(copy, file->metrics[i].name);
        struct tms_metric *to = g_hash_table_lookup(metrics, GUINT_TO_POINTER(name));

        if (many && file->metrics[i].format == TMS_METRIC_PERCENT)
            continue; /* Percentages do not add up. */
        if (to) {
            to->value.i = (gint64)((guint64)to->value.i + (guint64)file->metrics[i].value.i);
            continue;
        }
        to = g_memdup2(&file->metrics[i], sizeof *to);
        to->name = name;
        g_hash_table_insert(metrics, GUINT_TO_POINTER(name), to);
    }
}

static gboolean copy_one(Copy *copy, GError **error)
{
    struct tms_error reason = {0};
    void *states[1] = {copy};
    gboolean ok = TRUE;

    copy_modules(copy);
    copy_sites(copy);
    copy_nodes(copy);
    copy_types(copy);
    /* One thread: the order of the traces is kept. */
    if (tm_image_has_traces(&copy->snapshot->image))
        ok = tm_scan(&copy->snapshot->file,
                     TM_SCAN_ADDRESS | TM_SCAN_NODE | TM_SCAN_SIZE | TM_SCAN_DOMAIN | TM_SCAN_AGE |
                         TM_SCAN_TYPE | TM_SCAN_THREAD,
                     copy_rows, states, 1, &reason);
    if (!ok) {
        tm_error_set_from_reader(error, &reason);
        g_prefix_error(error, "Failed to load %s: ", copy->snapshot->path);
    }
    return ok;
}

static void copy_facts(const TmSession *session, TmBuilder *builder)
{
    const TmSnapshot *last = tm_session_get(session, session->snapshots->len - 1);
    const struct tms_file *file = &last->file;
    const char *end = file->facts + file->facts_bytes;
    g_autofree char *pids = tm_session_mixed_pids(session);

    for (const char *fact = file->facts; fact < end; fact += strlen(fact) + 1) {
        const char *equals = strchr(fact, '=');
        g_autofree char *key = equals ? g_strndup(fact, (gsize)(equals - fact)) : NULL;
        if (key && !(pids && (strcmp(key, "pid") == 0 || strcmp(key, "cmdline") == 0 ||
                              strcmp(key, "addresses") == 0)))
            tm_builder_fact(builder, key, equals + 1);
    }
    if (pids) {
        tm_builder_fact(builder, "pid", "0");
        tm_builder_fact(builder, "pids", pids);
        tm_builder_fact(builder, "addresses", "0"); /* One address can be in several processes. */
    }
}

gboolean tm_copy_snapshots(TmSession *session, int fd, GError **error)
{
    guint n = session->snapshots->len;
    g_autoptr(TmBuilder) builder =
        tm_builder_new(fd, tm_session_get(session, n - 1)->file.timestamp_ns);
    g_autoptr(GHashTable) stats = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_autoptr(GHashTable) metrics = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    GHashTableIter iter;
    void *stat;
    gboolean ok = TRUE;

    for (guint i = 0; ok && i < n; i++) {
        Copy copy = {.snapshot = tm_session_get(session, i), .builder = builder};
        ok = copy_one(&copy, error);
        if (ok) {
            copy_stats(&copy, stats);
            copy_metrics(&copy, metrics, n > 1);
        }
        g_free(copy.sites);
        g_free(copy.nodes);
        g_free(copy.types);
        g_free(copy.modules);
    }
    if (!ok)
        return FALSE;
    copy_facts(session, builder);
    g_hash_table_iter_init(&iter, stats);
    while (g_hash_table_iter_next(&iter, NULL, &stat))
        tm_builder_stat(builder, stat);
    g_hash_table_foreach(metrics, add_metric, builder);
    return tm_builder_finish(builder, error);
}
