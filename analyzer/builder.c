// SPDX-License-Identifier: MIT
/* Building .tms files. */
#include "analyzer/builder.h"

#include <string.h>

#include "analyzer/core/intern.h"
#include "analyzer/error.h"

struct TmBuilder {
    struct tms_writer *writer;
    struct tm_intern strings, sites, nodes, types;
    GArray *modules, *stats, *metrics;
    GPtrArray *facts; /* key, value, key ... */
    guint64 n_traces;
};

TmBuilder *tm_builder_new(int fd, guint64 timestamp_ns)
{
    static const struct tms_node root = {TMS_NO_ID, TMS_NO_ID};
    TmBuilder *builder = g_new0(TmBuilder, 1);

    builder->writer = g_malloc(sizeof *builder->writer);
    tms_writer_init(builder->writer, fd, timestamp_ns, 3);
    tm_intern_init_strings(&builder->strings);
    tm_intern_init(&builder->sites, sizeof(struct tms_site));
    tm_intern_init(&builder->nodes, sizeof(struct tms_node));
    tm_intern_init(&builder->types, sizeof(guint32));
    tm_intern_get(&builder->nodes, &root);
    builder->modules = g_array_new(FALSE, FALSE, sizeof(struct tms_module));
    builder->stats = g_array_new(FALSE, FALSE, sizeof(struct tms_stat));
    builder->metrics = g_array_new(FALSE, FALSE, sizeof(struct tms_metric));
    builder->facts = g_ptr_array_new_with_free_func(g_free);
    return builder;
}

void tm_builder_free(TmBuilder *builder)
{
    if (builder == NULL)
        return;
    g_free(builder->writer);
    tm_intern_done(&builder->strings);
    tm_intern_done(&builder->sites);
    tm_intern_done(&builder->nodes);
    tm_intern_done(&builder->types);
    g_array_unref(builder->modules);
    g_array_unref(builder->stats);
    g_array_unref(builder->metrics);
    g_ptr_array_unref(builder->facts);
    g_free(builder);
}

guint32 tm_builder_string(TmBuilder *builder, struct tms_str text)
{
    return text.n_bytes ? tm_intern_get(&builder->strings, &text) : TMS_NO_ID;
}

guint32 tm_builder_site(TmBuilder *builder, const struct tms_site *site)
{
    return tm_intern_get(&builder->sites, site);
}

guint32 tm_builder_node(TmBuilder *builder, guint32 parent, guint32 site)
{
    struct tms_node node = {parent, site};
    return tm_intern_get(&builder->nodes, &node);
}

guint32 tm_builder_type(TmBuilder *builder, struct tms_str name)
{
    guint32 id = tm_builder_string(builder, name);
    return id == TMS_NO_ID ? 0 : tm_intern_get(&builder->types, &id) + 1;
}

guint32 tm_builder_module(TmBuilder *builder, const struct tms_module *module)
{
    for (guint i = 0; i < builder->modules->len; i++) {
        if (memcmp(&g_array_index(builder->modules, struct tms_module, i), module,
                   sizeof *module) == 0)
            return i;
    }
    g_array_append_val(builder->modules, *module);
    return builder->modules->len - 1;
}

void tm_builder_stat(TmBuilder *builder, const struct tms_stat *stat)
{
    g_array_append_val(builder->stats, *stat);
}

void tm_builder_metric(TmBuilder *builder, const struct tms_metric *metric)
{
    g_array_append_val(builder->metrics, *metric);
}

void tm_builder_fact(TmBuilder *builder, const char *key, const char *value)
{
    g_ptr_array_add(builder->facts, g_strdup(key));
    g_ptr_array_add(builder->facts, g_strdup(value));
}

void tm_builder_fact_i64(TmBuilder *builder, const char *key, gint64 value)
{
    g_ptr_array_add(builder->facts, g_strdup(key));
    g_ptr_array_add(builder->facts, g_strdup_printf("%" G_GINT64_FORMAT, value));
}

void tm_builder_trace(TmBuilder *builder, const struct tms_trace *trace)
{
    tms_writer_trace(builder->writer, trace);
    builder->n_traces++;
}

guint64 tm_builder_trace_count(const TmBuilder *builder)
{
    return builder->n_traces;
}

static void write_section(struct tms_writer *w, enum tms_section_type type, const void *data,
                          gsize n_bytes)
{
    if (n_bytes == 0)
        return;
    tms_writer_begin(w, type);
    tms_writer_bytes(w, data, n_bytes);
    tms_writer_finish(w);
}

static gboolean write_strings(TmBuilder *builder, GError **error)
{
    const struct tms_str *strings = builder->strings.items;
    struct tms_writer *w = builder->writer;
    guint32 n = builder->strings.count;
    guint64 end = 0;

    tms_writer_begin(w, TMS_STRINGS);
    tms_writer_bytes(w, &n, sizeof n);
    for (guint32 i = 0; i < n; i++) {
        guint32 short_end;
        end += strings[i].n_bytes;
        short_end = (guint32)end;
        tms_writer_bytes(w, &short_end, sizeof short_end);
    }
    for (guint32 i = 0; i < n; i++)
        tms_writer_bytes(w, strings[i].bytes, strings[i].n_bytes);
    tms_writer_finish(w);
    return end <= G_MAXUINT32 || tm_error_data(error, "more than 4 GiB of file names");
}

gboolean tm_builder_finish(TmBuilder *builder, GError **error)
{
    struct tms_writer *w = builder->writer;
    int result;

    tms_writer_flush_traces(w);
    tms_writer_begin(w, TMS_FACTS);
    for (guint i = 0; i < builder->facts->len; i += 2)
        tms_writer_fact(w, builder->facts->pdata[i], builder->facts->pdata[i + 1]);
    tms_writer_finish(w);
    if (!write_strings(builder, error))
        return FALSE;
    write_section(w, TMS_SITES, builder->sites.items,
                  builder->sites.count * sizeof(struct tms_site));
    write_section(w, TMS_NODES, builder->nodes.items,
                  builder->nodes.count * sizeof(struct tms_node));
    write_section(w, TMS_TYPES, builder->types.items, builder->types.count * sizeof(guint32));
    write_section(w, TMS_MODULES, builder->modules->data,
                  builder->modules->len * sizeof(struct tms_module));
    write_section(w, TMS_STATS, builder->stats->data,
                  builder->stats->len * sizeof(struct tms_stat));
    write_section(w, TMS_METRICS, builder->metrics->data,
                  builder->metrics->len * sizeof(struct tms_metric));
    result = tms_writer_end(w);
    return result == 0 || tm_error_data(error, "%s", g_strerror(-result));
}
