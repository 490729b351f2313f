// SPDX-License-Identifier: MIT
/*
 * pprof: a gzipped message Profile of profile.proto. Field numbers are from
 * github.com/google/pprof, proto/profile.proto. Function.system_name stays
 * unset: pprof demangles what is there and takes "<module>" for a C++ name.
 */
#include "analyzer/export.h"

#include <string.h>
#include <zlib.h>

#include "analyzer/error.h"

typedef struct {
    GByteArray *out;
    const struct tm_model *model;
    GHashTable *string_ids; /* of char * */
    GPtrArray *strings;
    guint32 *location_of_site; /* id + 1... ids begin at 1; 0: none yet */
    guint32 n_locations;
    GHashTable *function_ids; /* "name\nfile" -> id */
    GByteArray *functions, *locations;
    GHashTable *mapping_ids; /* module path's string id -> mapping id */
    GByteArray *mappings;
} Writer;

/* --- protocol buffers --- */

static void put_varint(GByteArray *out, guint64 value)
{
    guint8 bytes[10];
    guint n = 0;

    do {
        bytes[n] = (guint8)(value & 0x7f);
        value >>= 7;
        bytes[n++] |= value ? 0x80 : 0;
    } while (value);
    g_byte_array_append(out, bytes, n);
}

static void put_number(GByteArray *out, guint field, guint64 value)
{
    if (value == 0)
        return; /* The default. */
    put_varint(out, field << 3);
    put_varint(out, value);
}

static void put_bytes(GByteArray *out, guint field, const void *data, gsize n_bytes)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, n_bytes);
    g_byte_array_append(out, data, (guint)n_bytes);
}

static void put_message(GByteArray *out, guint field, const GByteArray *message)
{
    put_bytes(out, field, message->data, message->len);
}

/* --- tables --- */

static guint64 add_string(Writer *w, const char *text)
{
    void *found;

    if (g_hash_table_lookup_extended(w->string_ids, text, NULL, &found))
        return GPOINTER_TO_UINT(found);
    g_ptr_array_add(w->strings, g_strdup(text));
    g_hash_table_insert(w->string_ids, w->strings->pdata[w->strings->len - 1],
                        GUINT_TO_POINTER(w->strings->len - 1));
    return w->strings->len - 1;
}

static guint64 add_model_string(Writer *w, guint32 id)
{
    struct tms_str text = tm_model_string(w->model, id);
    g_autofree char *copy = g_strndup(text.bytes, text.n_bytes);
    g_autofree char *valid = g_utf8_make_valid(copy, -1); /* proto3 strings are UTF-8. */

    return add_string(w, valid);
}

static guint64 add_function(Writer *w, guint32 site_id)
{
    const struct tm_model_site *site = tm_model_site(w->model, site_id);
    g_autoptr(GString) name = g_string_new(NULL);
    g_autofree char *valid = NULL, *key = NULL;
    g_autoptr(GByteArray) message = g_byte_array_new();
    void *found;
    guint id;

    tm_export_append_function(name, w->model, site_id);
    valid = g_utf8_make_valid(name->str, (gssize)name->len);
    key = g_strdup_printf("%s\n%u", valid, site->file);
    if (g_hash_table_lookup_extended(w->function_ids, key, NULL, &found))
        return GPOINTER_TO_UINT(found);
    id = g_hash_table_size(w->function_ids) + 1;
    g_hash_table_insert(w->function_ids, g_steal_pointer(&key), GUINT_TO_POINTER(id));
    put_number(message, 1, id);
    put_number(message, 2, add_string(w, valid));
    put_number(message, 4, add_model_string(w, site->file));
    put_number(message, 5, (guint64)site->first_line);
    put_message(w->functions, 5, message);
    return id;
}

static guint64 add_mapping(Writer *w, guint32 module)
{
    g_autoptr(GByteArray) message = g_byte_array_new();
    void *found;
    guint id;

    if (module == TM_MODEL_NO_STRING)
        return 0;
    if (g_hash_table_lookup_extended(w->mapping_ids, GUINT_TO_POINTER(module), NULL, &found))
        return GPOINTER_TO_UINT(found);
    id = g_hash_table_size(w->mapping_ids) + 1;
    g_hash_table_insert(w->mapping_ids, GUINT_TO_POINTER(module), GUINT_TO_POINTER(id));
    put_number(message, 1, id);
    put_number(message, 5, add_model_string(w, module));
    put_message(w->mappings, 3, message);
    return id;
}

static guint32 add_location(Writer *w, guint32 site_id)
{
    const struct tm_model_site *site = tm_model_site(w->model, site_id);
    g_autoptr(GByteArray) message = NULL, line = NULL;

    if (w->location_of_site[site_id])
        return w->location_of_site[site_id];
    message = g_byte_array_new();
    line = g_byte_array_new();
    w->location_of_site[site_id] = ++w->n_locations;
    put_number(message, 1, w->n_locations);
    put_number(message, 2, add_mapping(w, site->module));
    put_number(message, 3, site->address);
    put_number(line, 1, add_function(w, site_id));
    put_number(line, 2, (guint64)site->line);
    put_message(message, 4, line);
    put_message(w->locations, 4, message);
    return w->n_locations;
}

/* --- the profile --- */

static void put_value_type(Writer *w, guint field, const char *type, const char *unit)
{
    g_autoptr(GByteArray) message = g_byte_array_new();

    put_number(message, 1, add_string(w, type));
    put_number(message, 2, add_string(w, unit));
    put_message(w->out, field, message);
}

static void put_sample(Writer *w, const struct tm_change *row, gboolean is_diff)
{
    g_autoptr(GByteArray) message = g_byte_array_new(), ids = g_byte_array_new(),
                          values = g_byte_array_new();

    for (guint32 node = (guint32)row->id; node != TM_MODEL_EMPTY;
         node = tm_model_node(w->model, node)->parent)
        put_varint(ids, add_location(w, tm_model_node(w->model, node)->site));
    if (ids->len == 0)
        put_varint(ids, add_location(w, TM_MODEL_NO_SITE));
    put_varint(values, is_diff ? (guint64)row->count_diff : row->count);
    put_varint(values, is_diff ? (guint64)row->size_diff : row->size);
    put_message(message, 1, ids);
    put_message(message, 2, values);
    put_message(w->out, 2, message);
}

static void put_profile(Writer *w, const TmExport *job)
{
    guint64 type;

    add_string(w, "");
    put_value_type(w, 1, "inuse_objects", "count");
    put_value_type(w, 1, "inuse_space", "bytes");
    for (size_t i = 0; i < job->diff->n_rows; i++) {
        const struct tm_change *row = &job->diff->rows[i];
        if (!job->base || row->size_diff || row->count_diff)
            put_sample(w, row, job->base != NULL);
    }
    g_byte_array_append(w->out, w->mappings->data, w->mappings->len);
    g_byte_array_append(w->out, w->locations->data, w->locations->len);
    g_byte_array_append(w->out, w->functions->data, w->functions->len);
    put_number(w->out, 9, job->snapshot->file.timestamp_ns);
    if (job->base)
        put_number(w->out, 10, job->snapshot->file.timestamp_ns - job->base->file.timestamp_ns);
    put_value_type(w, 11, "space", "bytes");
    put_number(w->out, 12,
               (guint64)MAX(tms_file_fact_i64(&job->snapshot->file, "sample_bytes", 0), 1));
    type = add_string(w, "inuse_space");
    put_number(w->out, 14, type);
    for (guint i = 0; i < w->strings->len; i++)
        put_bytes(w->out, 6, w->strings->pdata[i], strlen(w->strings->pdata[i]));
}

static gboolean write_gzip(const GByteArray *data, FILE *out, GError **error)
{
    z_stream z = {0};
    guint8 buffer[65536];
    int status;

    /* 16 asks for gzip's header and trailer. */
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return tm_error_data(error, "not enough memory");
    z.next_in = data->data;
    z.avail_in = data->len;
    do {
        z.next_out = buffer;
        z.avail_out = sizeof buffer;
        status = deflate(&z, Z_FINISH);
        fwrite(buffer, 1, sizeof buffer - z.avail_out, out);
    } while (status == Z_OK);
    deflateEnd(&z);
    return status == Z_STREAM_END || tm_error_data(error, "compression failed");
}

static gboolean write_pprof(const TmExport *job, GError **error)
{
    const struct tm_model *model = job->snapshot->image.model;
    Writer w = {.out = g_byte_array_new(), .model = model};
    gboolean ok;

    w.string_ids = g_hash_table_new(g_str_hash, g_str_equal);
    w.strings = g_ptr_array_new_with_free_func(g_free);
    w.function_ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    w.mapping_ids = g_hash_table_new(NULL, NULL);
    w.functions = g_byte_array_new();
    w.locations = g_byte_array_new();
    w.mappings = g_byte_array_new();
    w.location_of_site = g_new0(guint32, model->sites.count);
    put_profile(&w, job);
    ok = write_gzip(w.out, job->out, error);
    g_byte_array_unref(w.out);
    g_byte_array_unref(w.functions);
    g_byte_array_unref(w.locations);
    g_byte_array_unref(w.mappings);
    g_hash_table_unref(w.string_ids);
    g_hash_table_unref(w.function_ids);
    g_hash_table_unref(w.mapping_ids);
    g_ptr_array_unref(w.strings);
    g_free(w.location_of_site);
    return ok;
}

const TmExportFormat tm_export_pprof = {
    .name = "pprof",
    .suffix = ".pb.gz",
    .needs_diff = TRUE,
    .frames_max = 1u << 28,
    .takes_base = TRUE,
    .write = write_pprof,
};
