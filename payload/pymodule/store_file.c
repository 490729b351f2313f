// SPDX-License-Identifier: MIT
/*
 * An image and what Python changed beside it, written as .tms: to a file, or
 * into memory where filters make a new image of an old one. Runs with the GIL,
 * which it lets go while it writes traces.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "payload/mem.h"
#include "payload/pymodule/image.h"

enum { METRICS_MAX = 4096 };

struct metrics {
    struct tms_metric *items;
    PyObj **names; /* bytes objects; NULL where the metrics are the image's own */
    uint32_t count;
};

static void metrics_done(struct metrics *metrics)
{
    for (uint32_t i = 0; metrics->names != NULL && i < metrics->count; i++)
        tm_py_decref(metrics->names[i]);
    free(metrics->names);
    free(metrics->items);
}

/* One (name, value, format). False with an exception. */
static bool read_metric(PyObj *entry, struct tms_metric *ret, PyObj **ret_name)
{
    PyObj *name, *value;
    const char *format;
    if (!tm_pyf.PyArg_ParseTuple(entry, "OOs", &name, &value, &format))
        return false;
    if (strcmp(format, "percent") == 0) {
        ret->format = TMS_METRIC_PERCENT;
        ret->value.f = tm_pyf.PyFloat_AsDouble(value);
    } else {
        ret->format = strcmp(format, "size") == 0 ? TMS_METRIC_SIZE : TMS_METRIC_INT;
        ret->value.i = tm_pyf.PyLong_AsLongLong(value);
    }
    if (tm_py.PyErr_Occurred())
        return false;
    *ret_name = tm_pyf.PyUnicode_AsEncodedString(name, "utf-8", "surrogatepass");
    return *ret_name != NULL;
}

static bool metrics_init(struct metrics *metrics, const struct tm_pyimage *image, PyObj *list)
{
    *metrics = (struct metrics){0};
    PySize n = list ? tm_pyf.PyList_Size(list) : (PySize)image->file.n_metrics;
    if (n < 0 || n > METRICS_MAX)
        n = METRICS_MAX;
    metrics->items = calloc((size_t)n + 1, sizeof(*metrics->items));
    metrics->names = calloc((size_t)n + 1, sizeof(*metrics->names));
    if (metrics->items == NULL || metrics->names == NULL) {
        tm_pyf.PyErr_NoMemory();
        return false;
    }
    if (list == NULL) {
        memcpy(metrics->items, image->file.metrics, (size_t)n * sizeof(*metrics->items));
        metrics->count = (uint32_t)n;
        free(metrics->names);
        metrics->names = NULL;
        return true;
    }
    for (PySize i = 0; i < n; i++) {
        if (!read_metric(tm_pyf.PyList_GetItem(list, i), &metrics->items[i], &metrics->names[i]))
            return false;
        metrics->items[i].name = image->file.n_strings + (uint32_t)i;
        metrics->count++;
    }
    return true;
}

/* The metrics' names come behind the image's strings. */
static void write_strings(struct tms_writer *w, const struct tms_file *file,
                          const struct metrics *metrics)
{
    uint32_t n_more = metrics->names ? metrics->count : 0;
    uint32_t total = file->n_strings + n_more;
    uint32_t end = file->n_strings ? file->string_ends[file->n_strings - 1] : 0;
    tms_writer_begin(w, TMS_STRINGS);
    tms_writer_bytes(w, &total, sizeof(total));
    tms_writer_bytes(w, file->string_ends, (size_t)file->n_strings * sizeof(uint32_t));
    uint32_t at = end;
    for (uint32_t i = 0; i < n_more; i++) {
        at += (uint32_t)tm_pyf.PyBytes_Size(metrics->names[i]);
        tms_writer_bytes(w, &at, sizeof(at));
    }
    tms_writer_bytes(w, file->string_bytes, end);
    for (uint32_t i = 0; i < n_more; i++)
        tms_writer_bytes(w, tm_pyf.PyBytes_AsString(metrics->names[i]),
                         (size_t)tm_pyf.PyBytes_Size(metrics->names[i]));
    tms_writer_finish(w);
}

static void write_section(struct tms_writer *w, enum tms_section_type type, const void *data,
                          size_t n_bytes)
{
    if (n_bytes == 0)
        return;
    tms_writer_begin(w, type);
    tms_writer_bytes(w, data, n_bytes);
    tms_writer_finish(w);
}

static bool is_changed(const char *fact, const struct tm_pyextras *extras)
{
    return strncmp(fact, "traces=", 7) == 0 || strncmp(fact, "stats=", 6) == 0 ||
           (strncmp(fact, "pid=", 4) == 0 && extras->pid >= 0) ||
           (strncmp(fact, "traceback_limit=", 16) == 0 && extras->traceback_limit >= 0);
}

static void write_facts(struct tms_writer *w, const struct tm_pyimage *image,
                        const struct tm_pyextras *extras)
{
    const struct tms_file *file = &image->file;
    tms_writer_begin(w, TMS_FACTS);
    for (size_t at = 0; at < file->facts_bytes;) {
        size_t n_bytes = strnlen(file->facts + at, file->facts_bytes - at) + 1;
        if (!is_changed(file->facts + at, extras))
            tms_writer_bytes(w, file->facts + at, n_bytes);
        at += n_bytes;
    }
    tms_writer_fact_i64(w, "traces", image->has_traces);
    if (!image->has_stats)
        tms_writer_fact_i64(w, "stats", 0);
    if (extras->pid >= 0)
        tms_writer_fact_i64(w, "pid", extras->pid);
    if (extras->traceback_limit >= 0)
        tms_writer_fact_i64(w, "traceback_limit", extras->traceback_limit);
    tms_writer_finish(w);
}

static void write_stats(struct tms_writer *w, const struct tms_file *file, const uint8_t *keep)
{
    tms_writer_begin(w, TMS_STATS);
    for (uint32_t i = 0; i < file->n_stats; i++)
        if (keep == NULL || keep[i])
            tms_writer_bytes(w, &file->stats[i], sizeof(file->stats[i]));
    tms_writer_finish(w);
}

struct columns {
    uint64_t address[TMS_GROUP_MAX], size_bytes[TMS_GROUP_MAX];
    uint32_t node[TMS_GROUP_MAX], age[TMS_GROUP_MAX], type[TMS_GROUP_MAX], thread[TMS_GROUP_MAX];
    uint8_t domain[TMS_GROUP_MAX];
};

static int write_traces(struct tms_writer *w, const struct tms_file *file, const uint8_t *keep)
{
    struct columns *c = tm_mem_map(sizeof(*c));
    struct tms_error error;
    int status = c ? 0 : -ENOMEM;
    for (uint32_t group = 0; status == 0 && group < file->n_groups; group++) {
        struct tms_columns wanted = {c->address, c->node, c->size_bytes, c->domain,
                                     c->age,     c->type, c->thread};
        if (!tms_group_decode(file, group, &wanted, &error)) {
            status = -EINVAL;
            break;
        }
        for (uint32_t i = 0; i < file->groups[group].head->count; i++) {
            struct tms_trace trace = {c->address[i],       c->size_bytes[i], c->node[i],
                                      (uint16_t)c->age[i], c->domain[i],     0,
                                      c->type[i],          c->thread[i]};
            if (keep == NULL || keep[c->node[i]])
                tms_writer_trace(w, &trace);
        }
    }
    tm_mem_unmap(c, sizeof(*c));
    return status;
}

int tm_pyimage_write(const struct tm_pyimage *image, const struct tm_pyextras *extras, int fd)
{
    const struct tms_file *file = &image->file;
    struct tms_writer *w = tm_mem_map(sizeof(*w));
    struct metrics metrics = {0};
    int status = w ? 0 : -ENOMEM;
    if (status == 0 && !metrics_init(&metrics, image, extras->metrics))
        status = -EILSEQ;
    if (status == 0) {
        uint32_t shift = file->n_groups ? file->groups[0].head->granule_shift : 4;
        tms_writer_init(w, fd, extras->timestamp_ns, shift);
        write_strings(w, file, &metrics);
        tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
        write_section(w, TMS_SITES, file->sites, file->n_sites * sizeof(*file->sites));
        write_section(w, TMS_NODES, file->nodes, file->n_nodes * sizeof(*file->nodes));
        write_section(w, TMS_MODULES, file->modules, file->n_modules * sizeof(*file->modules));
        write_section(w, TMS_TYPES, file->types, file->n_types * sizeof(*file->types));
        write_section(w, TMS_METRICS, metrics.items, metrics.count * sizeof(*metrics.items));
        if (image->has_traces)
            status = write_traces(w, file, extras->keep_node);
        write_stats(w, file, extras->keep_stat);
        write_facts(w, image, extras);
        int end = tms_writer_end(w);
        if (status == 0)
            status = end;
        tm_pyf.PyEval_RestoreThread(tstate);
    }
    metrics_done(&metrics);
    tm_mem_unmap(w, sizeof(*w));
    return status;
}
