// SPDX-License-Identifier: MIT
/*
 * What a pickled tracemalloc.Snapshot says, as a .tms image. Shapes of the
 * standard library, from Lib/tracemalloc.py and Modules/_tracemalloc.c of 3.4
 * to 3.14: Snapshot has `traces` (_Traces, whose `_traces` is a sequence) and
 * `traceback_limit`; a trace is (size, traceback) in 3.4 and 3.5, (domain,
 * size, traceback) from 3.6 and (domain, size, traceback, total frames) from
 * 3.9 on; a traceback is a tuple of (file name, line), most recent first.
 * pytracemalloc adds the attributes stats, metrics, pid, timestamp, addresses.
 */
#include "analyzer/pickle_load.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "analyzer/builder.h"
#include "analyzer/error.h"
#include "analyzer/pickle_vm.h"

typedef struct {
    const TmPickle *pickle;
    TmBuilder *builder;
    GHashTable *nodes; /* TmValue of a traceback -> node; pickled tracebacks are shared objects */
    GHashTable *sites; /* TmValue of a frame -> site */
    TmValue last_traceback;
    guint32 last_node;
    GError **error;
} Loader;

gboolean tm_pickle_looks_like(const guint8 head[8])
{
    /* PROTO of protocols 2 to 5; protocols 0 and 1 begin with the class of the object. */
    return (head[0] == 0x80 && head[1] >= 2 && head[1] <= 5) || memcmp(head, "ccopy_re", 8) == 0 ||
           memcmp(head, "ccopyreg", 8) == 0;
}

static gboolean wrong(Loader *loader, const char *what)
{
    return tm_error_data(loader->error, "the pickle is no tracemalloc snapshot: %s", what);
}

static gboolean get_site(Loader *loader, TmValue file, TmValue line, guint32 *ret)
{
    struct tms_site site = {.function = TMS_NO_ID, .module = TMS_NO_ID};
    struct tms_str name = {"", 0};
    gint64 number = 0;

    if (tm_value_kind(file) != TM_VALUE_NONE &&
        !tm_value_text(loader->pickle, file, &name.bytes, &name.n_bytes))
        return wrong(loader, "a file name is no string");
    if (tm_value_kind(line) != TM_VALUE_NONE && !tm_value_int(loader->pickle, line, &number))
        return wrong(loader, "a line number is no integer");
    /* What tracemalloc calls a place that it does not know. */
    if (number == 0 && name.n_bytes == 9 && memcmp(name.bytes, "<unknown>", 9) == 0)
        name.n_bytes = 0;
    site.line = number < 1 || number > G_MAXINT32 ? 0 : (gint32)number;
    site.file = tm_builder_string(loader->builder, name);
    *ret = tm_builder_site(loader->builder, &site);
    return TRUE;
}

static gboolean get_frame(Loader *loader, TmValue frame, guint32 *ret)
{
    const TmValue *items;
    void *found;
    gsize n;

    if (g_hash_table_lookup_extended(loader->sites, (void *)(guintptr)frame, NULL, &found)) {
        *ret = GPOINTER_TO_UINT(found);
        return TRUE;
    }
    if (!tm_value_items(loader->pickle, frame, &items, &n) || n < 2)
        return wrong(loader, "a frame is no pair");
    if (!get_site(loader, items[0], items[1], ret))
        return FALSE;
    g_hash_table_insert(loader->sites, (void *)(guintptr)frame, GUINT_TO_POINTER(*ret));
    return TRUE;
}

static gboolean get_node(Loader *loader, TmValue traceback, guint32 *ret)
{
    const TmValue *frames;
    guint32 node = 0, site;
    void *found;
    gsize n;

    if (traceback == loader->last_traceback) {
        *ret = loader->last_node;
        return TRUE;
    }
    if (!g_hash_table_lookup_extended(loader->nodes, (void *)(guintptr)traceback, NULL, &found)) {
        if (!tm_value_items(loader->pickle, traceback, &frames, &n))
            return wrong(loader, "a traceback is no tuple");
        for (gsize i = n; i-- > 0;) {
            if (!get_frame(loader, frames[i], &site))
                return FALSE;
            node = tm_builder_node(loader->builder, node, site);
        }
        found = GUINT_TO_POINTER(node);
        g_hash_table_insert(loader->nodes, (void *)(guintptr)traceback, found);
    }
    *ret = loader->last_node = GPOINTER_TO_UINT(found);
    loader->last_traceback = traceback;
    return TRUE;
}

static gboolean add_trace(Loader *loader, TmValue value, guint64 address)
{
    struct tms_trace trace = {.address = address, .domain = TMS_DOMAIN_OBJ};
    const TmValue *items;
    gint64 domain = 0, size_bytes;
    gsize n, at;

    if (!tm_value_items(loader->pickle, value, &items, &n) || n < 2 || n > 4)
        return wrong(loader, "a trace is no tuple of 2 to 4");
    at = n > 2;
    if (at && !tm_value_int(loader->pickle, items[0], &domain))
        return wrong(loader, "a domain is no integer");
    if (!tm_value_int(loader->pickle, items[at], &size_bytes) || size_bytes < 0)
        return wrong(loader, "a size is no size");
    /* Other domains are other tracers' of C code; the standard library's own is 0 for all three,
     * which the snapshot does not tell apart. */
    trace.domain = domain == 0 ? TMS_DOMAIN_OBJ : TMS_DOMAIN_RAW;
    trace.size_bytes = (guint64)size_bytes;
    if (!get_node(loader, items[at + 1], &trace.node))
        return FALSE;
    tm_builder_trace(loader->builder, &trace);
    return TRUE;
}

static gboolean add_traces(Loader *loader, TmValue snapshot, TmValue traces)
{
    const TmValue *items, *addresses = NULL;
    gsize n, n_addresses = 0;
    TmValue value;
    gint64 address = 0;

    if (tm_value_attribute(loader->pickle, traces, "_traces", &value))
        traces = value;
    if (!tm_value_items(loader->pickle, traces, &items, &n))
        return wrong(loader, "its traces are no sequence");
    if (tm_value_attribute(loader->pickle, snapshot, "addresses", &value) &&
        tm_value_items(loader->pickle, value, &addresses, &n_addresses) && n_addresses != n)
        return wrong(loader, "it has not as many addresses as traces");
    tm_builder_fact_i64(loader->builder, "addresses", n_addresses == n && addresses != NULL);
    tm_builder_fact(loader->builder, "traces", "1");
    for (gsize i = 0; i < n; i++) {
        if (n_addresses && !tm_value_int(loader->pickle, addresses[i], &address))
            return wrong(loader, "an address is no integer");
        if (!add_trace(loader, items[i], (guint64)address))
            return FALSE;
    }
    return TRUE;
}

/* {line: (size, count)} of one file */
static gboolean add_file_stats(Loader *loader, TmValue file, TmValue lines)
{
    const TmValue *items, *amounts;
    gsize n, n_amounts;
    gint64 size_bytes, count;

    if (tm_value_kind(lines) != TM_VALUE_DICT || !tm_value_items(loader->pickle, lines, &items, &n))
        return wrong(loader, "its stats of a file are no dictionary");
    for (gsize i = 0; i + 1 < n; i += 2) {
        struct tms_stat stat = {0};
        if (!tm_value_items(loader->pickle, items[i + 1], &amounts, &n_amounts) || n_amounts != 2 ||
            !tm_value_int(loader->pickle, amounts[0], &size_bytes) ||
            !tm_value_int(loader->pickle, amounts[1], &count) || size_bytes < 0 || count < 0)
            return wrong(loader, "its stats of a line are no (size, count)");
        if (!get_site(loader, file, items[i], &stat.site))
            return FALSE;
        stat.live_bytes = stat.peak_bytes = (guint64)size_bytes;
        stat.live_blocks = stat.total_blocks = (guint64)count;
        tm_builder_stat(loader->builder, &stat);
    }
    return TRUE;
}

static gboolean add_stats(Loader *loader, TmValue stats)
{
    const TmValue *items;
    gsize n;

    if (tm_value_kind(stats) != TM_VALUE_DICT || !tm_value_items(loader->pickle, stats, &items, &n))
        return wrong(loader, "its stats are no dictionary");
    for (gsize i = 0; i + 1 < n; i += 2) {
        if (!add_file_stats(loader, items[i], items[i + 1]))
            return FALSE;
    }
    return TRUE;
}

/* (value, format), or a Metric with these attributes. */
static gboolean read_metric(Loader *loader, TmValue value, struct tms_metric *ret)
{
    const TmValue *items;
    TmValue amount, form;
    const char *format;
    gsize n, n_bytes;

    if (tm_value_items(loader->pickle, value, &items, &n) && n == 2) {
        amount = items[0];
        form = items[1];
    } else if (!tm_value_attribute(loader->pickle, value, "value", &amount) ||
               !tm_value_attribute(loader->pickle, value, "format", &form)) {
        return FALSE;
    }
    if (!tm_value_text(loader->pickle, form, &format, &n_bytes))
        return FALSE;
    if (n_bytes == 7 && memcmp(format, "percent", 7) == 0) {
        ret->format = TMS_METRIC_PERCENT;
        /* A .tms holds finite numbers only, and its reader insists. */
        return tm_value_number(loader->pickle, amount, &ret->value.f) && isfinite(ret->value.f);
    }
    ret->format = n_bytes == 4 && memcmp(format, "size", 4) == 0 ? TMS_METRIC_SIZE : TMS_METRIC_INT;
    return tm_value_int(loader->pickle, amount, &ret->value.i);
}

static gboolean add_metrics(Loader *loader, TmValue metrics)
{
    const TmValue *items;
    gsize n;

    if (tm_value_kind(metrics) != TM_VALUE_DICT ||
        !tm_value_items(loader->pickle, metrics, &items, &n))
        return wrong(loader, "its metrics are no dictionary");
    for (gsize i = 0; i + 1 < n; i += 2) {
        struct tms_metric metric = {0};
        struct tms_str name;
        if (!tm_value_text(loader->pickle, items[i], &name.bytes, &name.n_bytes) ||
            name.n_bytes == 0 || !read_metric(loader, items[i + 1], &metric))
            return wrong(loader, "a metric is no (finite value, format)");
        metric.name = tm_builder_string(loader->builder, name);
        tm_builder_metric(loader->builder, &metric);
    }
    return TRUE;
}

static gboolean add_snapshot(Loader *loader)
{
    const TmPickle *pickle = loader->pickle;
    TmValue root = tm_pickle_root(pickle), value;
    gint64 number;
    gboolean has_traces = FALSE;

    if (!tm_value_class_is(pickle, root, "tracemalloc", "Snapshot") &&
        !tm_value_class_is(pickle, root, "pytracemalloc", "Snapshot"))
        return wrong(loader, "its object is no tracemalloc.Snapshot");
    if (tm_value_attribute(pickle, root, "traceback_limit", &value) &&
        tm_value_int(pickle, value, &number))
        tm_builder_fact_i64(loader->builder, "traceback_limit", number);
    if (tm_value_attribute(pickle, root, "pid", &value) && tm_value_int(pickle, value, &number))
        tm_builder_fact_i64(loader->builder, "pid", number);
    if (tm_value_attribute(pickle, root, "traces", &value) &&
        tm_value_kind(value) != TM_VALUE_NONE) {
        has_traces = TRUE;
        if (!add_traces(loader, root, value))
            return FALSE;
    }
    if (tm_value_attribute(pickle, root, "stats", &value) &&
        tm_value_kind(value) != TM_VALUE_NONE) {
        if (!add_stats(loader, value))
            return FALSE;
    } else if (!has_traces) {
        return wrong(loader, "it has neither traces nor stats");
    }
    if (!has_traces)
        tm_builder_fact(loader->builder, "traces", "0");
    return !tm_value_attribute(pickle, root, "metrics", &value) ||
           tm_value_kind(value) == TM_VALUE_NONE || add_metrics(loader, value);
}

/* What the pickle says of its time, as a number of seconds; else the file's own. */
static guint64 find_timestamp(const TmPickle *pickle, const struct stat *st)
{
    TmValue value;
    gint64 ns;
    double seconds;

    if (tm_value_attribute(pickle, tm_pickle_root(pickle), "timestamp_ns", &value) &&
        tm_value_int(pickle, value, &ns) && ns > 0)
        return (guint64)ns;
    if (tm_value_attribute(pickle, tm_pickle_root(pickle), "timestamp", &value) &&
        tm_value_number(pickle, value, &seconds) && seconds > 0 && seconds < 1e10)
        return (guint64)(seconds * 1e9);
    return (guint64)st->st_mtim.tv_sec * G_GUINT64_CONSTANT(1000000000) +
           (guint64)st->st_mtim.tv_nsec;
}

static gboolean build(int fd, const guint8 *data, const struct stat *st, GError **error)
{
    g_autoptr(TmPickle) pickle = tm_pickle_parse(data, (gsize)st->st_size, error);
    g_autoptr(TmBuilder) builder = NULL;
    Loader loader = {.pickle = pickle, .last_traceback = ~G_GUINT64_CONSTANT(0), .error = error};
    gboolean ok;

    if (pickle == NULL)
        return FALSE;
    builder = tm_builder_new(fd, find_timestamp(pickle, st));
    loader.builder = builder;
    loader.nodes = g_hash_table_new(NULL, NULL);
    loader.sites = g_hash_table_new(NULL, NULL);
    tm_builder_fact(builder, "reason", "pickle");
    /* What the standard library does not record must not look as if it were 0. */
    tm_builder_fact(builder, "domains", "unknown");
    tm_builder_fact(builder, "ages", "0");
    ok = add_snapshot(&loader) && tm_builder_finish(builder, error);
    g_hash_table_unref(loader.nodes);
    g_hash_table_unref(loader.sites);
    return ok;
}

void *tm_pickle_load_memory(const guint8 *data, const struct stat *st, gsize *ret_bytes,
                            GError **error)
{
    int fd = memfd_create("tm-pickle", MFD_CLOEXEC);
    struct stat image;
    void *map = NULL;

    if (fd < 0) {
        tm_error_data(error, "%s", g_strerror(errno));
        return NULL;
    }
    if (build(fd, data, st, error) && fstat(fd, &image) == 0) {
        map = mmap(NULL, (gsize)image.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        *ret_bytes = (gsize)image.st_size;
        if (map == MAP_FAILED) {
            tm_error_data(error, "%s", g_strerror(errno));
            map = NULL;
        }
    }
    close(fd);
    return map;
}

void *tm_pickle_load(const char *path, gsize *ret_bytes, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *data, *image;

    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size == 0) {
        tm_error_data(error, "%s", g_strerror(fd < 0 ? errno : EIO));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    data = mmap(NULL, (gsize)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED) {
        tm_error_data(error, "%s", g_strerror(errno));
        return NULL;
    }
    image = tm_pickle_load_memory(data, &st, ret_bytes, error);
    munmap(data, (gsize)st.st_size);
    return image;
}

void tm_pickle_unload(void *image, gsize n_bytes)
{
    munmap(image, n_bytes);
}
