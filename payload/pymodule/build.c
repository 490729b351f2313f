// SPDX-License-Identifier: MIT
#include "payload/pymodule/build.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analyzer/core/intern.h"
#include "payload/mem.h"
#include "payload/pymodule/image.h"

struct known {
    PyObj *object; /* borrowed: the dictionaries hold it */
};

struct build {
    struct tm_intern strings, sites, nodes;
    struct tm_intern objects; /* tracebacks seen, by identity */
    uint32_t *object_node;    /* id in objects -> node */
    uint32_t object_capacity;
    PyObj *texts; /* list: keeps the bytes of the strings alive */
    PyObj *last_file;
    uint32_t last_string;
    struct tms_trace *traces;
    size_t n_traces;
    struct tms_stat *stats;
    size_t n_stats, stats_capacity;
};

static bool no_memory(void)
{
    tm_pyf.PyErr_NoMemory();
    return false;
}

static void build_done(struct build *b)
{
    tm_intern_done(&b->strings);
    tm_intern_done(&b->sites);
    tm_intern_done(&b->nodes);
    tm_intern_done(&b->objects);
    free(b->object_node);
    free(b->traces);
    free(b->stats);
    tm_py_decref(b->texts);
}

static bool build_init(struct build *b)
{
    const struct tms_node empty = {TMS_NO_ID, TMS_NO_ID};
    *b = (struct build){.texts = tm_pyf.PyList_New(0)};
    tm_intern_init_strings(&b->strings);
    tm_intern_init(&b->sites, sizeof(struct tms_site));
    tm_intern_init(&b->nodes, sizeof(struct tms_node));
    tm_intern_init(&b->objects, sizeof(struct known));
    return b->texts != NULL && (tm_intern_get(&b->nodes, &empty) != TMS_NO_ID || no_memory());
}

static bool add_string(struct build *b, PyObj *text, uint32_t *ret)
{
    struct tms_str str;
    *ret = TMS_NO_ID;
    if (text == tm_py.none)
        return true;
    if (text == b->last_file) {
        *ret = b->last_string;
        return true;
    }
    PyObj *bytes = tm_pyf.PyUnicode_AsEncodedString(text, "utf-8", "surrogatepass");
    if (bytes == NULL)
        return false;
    str = (struct tms_str){tm_pyf.PyBytes_AsString(bytes), (size_t)tm_pyf.PyBytes_Size(bytes)};
    uint32_t before = b->strings.count;
    *ret = tm_intern_get(&b->strings, &str);
    int status = *ret == before ? tm_pyf.PyList_Append(b->texts, bytes) : 0;
    tm_py_decref(bytes);
    b->last_file = text;
    b->last_string = *ret;
    return status == 0 && (*ret != TMS_NO_ID || no_memory());
}

static bool add_site(struct build *b, PyObj *file, PyObj *line, uint32_t *ret)
{
    struct tms_site site = {.function = TMS_NO_ID, .module = TMS_NO_ID};
    if (!add_string(b, file, &site.file))
        return false;
    if (line != tm_py.none) {
        long long number = tm_pyf.PyLong_AsLongLong(line);
        if (number == -1 && tm_py.PyErr_Occurred())
            return false;
        site.line = number < 1 || number > INT32_MAX ? 0 : (int32_t)number;
    }
    *ret = tm_intern_get(&b->sites, &site);
    return *ret != TMS_NO_ID || no_memory();
}

static bool add_frame(struct build *b, PyObj *frame, uint32_t *ret)
{
    if (!tm_pyf.PyObject_IsInstance(frame, tm_pyf.tuple_type) || tm_pyf.PyTuple_Size(frame) < 2) {
        tm_py_raise(tm_pyf.type_error, "frames must be 2-tuples");
        return false;
    }
    return add_site(b, tm_pyf.PyTuple_GetItem(frame, 0), tm_pyf.PyTuple_GetItem(frame, 1), ret);
}

/* The traceback's node; most dictionaries share their tuples. */
static bool add_traceback(struct build *b, PyObj *traceback, uint32_t *ret)
{
    struct known known = {traceback};
    uint32_t before = b->objects.count, id = tm_intern_get(&b->objects, &known);
    if (id == TMS_NO_ID)
        return no_memory();
    if (id < before) {
        *ret = b->object_node[id];
        return true;
    }
    if (id >= b->object_capacity) {
        uint32_t capacity = b->object_capacity ? b->object_capacity * 2 : 256;
        uint32_t *grown = realloc(b->object_node, capacity * sizeof(*grown));
        if (grown == NULL)
            return no_memory();
        b->object_node = grown;
        b->object_capacity = capacity;
    }
    if (!tm_pyf.PyObject_IsInstance(traceback, tm_pyf.tuple_type)) {
        tm_py_raise(tm_pyf.type_error, "traceback must be a tuple");
        return false;
    }
    struct tms_node node = {0, 0};
    uint32_t at = 0;
    for (PySize i = tm_pyf.PyTuple_Size(traceback); i > 0; i--) {
        node.parent = at;
        if (!add_frame(b, tm_pyf.PyTuple_GetItem(traceback, i - 1), &node.site))
            return false;
        if ((at = tm_intern_get(&b->nodes, &node)) == TMS_NO_ID)
            return no_memory();
    }
    *ret = b->object_node[id] = at;
    return true;
}

static int by_address(const void *a, const void *b)
{
    uint64_t x = ((const struct tms_trace *)a)->address, y = ((const struct tms_trace *)b)->address;
    return x < y ? -1 : x > y;
}

static bool add_traces(struct build *b, PyObj *traces)
{
    PySize n = tm_pyf.PyDict_Size(traces);
    PyObj *key, *value, *size, *traceback;
    long at = 0;
    if (n < 0)
        return false;
    b->traces = calloc((size_t)n + 1, sizeof(*b->traces));
    if (b->traces == NULL)
        return no_memory();
    while (b->n_traces < (size_t)n && tm_py.PyDict_Next(traces, &at, &key, &value)) {
        struct tms_trace *trace = &b->traces[b->n_traces];
        if (!tm_pyf.PyArg_ParseTuple(value, "OO", &size, &traceback))
            return false;
        trace->domain = TMS_DOMAIN_OBJ;
        trace->address = tm_pyf.PyLong_AsUnsignedLongLong(key);
        trace->size_bytes = tm_pyf.PyLong_AsUnsignedLongLong(size);
        if (tm_py.PyErr_Occurred() || !add_traceback(b, traceback, &trace->node))
            return false;
        b->n_traces++;
    }
    qsort(b->traces, b->n_traces, sizeof(*b->traces), by_address);
    return true;
}

static bool add_stat(struct build *b, PyObj *file, PyObj *line, PyObj *amounts)
{
    PyObj *size, *count;
    if (b->n_stats == b->stats_capacity) {
        size_t capacity = b->stats_capacity ? b->stats_capacity * 2 : 256;
        struct tms_stat *grown = realloc(b->stats, capacity * sizeof(*grown));
        if (grown == NULL)
            return no_memory();
        b->stats = grown;
        b->stats_capacity = capacity;
    }
    struct tms_stat *stat = &b->stats[b->n_stats];
    *stat = (struct tms_stat){0};
    if (!tm_pyf.PyArg_ParseTuple(amounts, "OO", &size, &count) ||
        !add_site(b, file, line, &stat->site))
        return false;
    stat->live_bytes = stat->peak_bytes = tm_pyf.PyLong_AsUnsignedLongLong(size);
    stat->live_blocks = stat->total_blocks = tm_pyf.PyLong_AsUnsignedLongLong(count);
    b->n_stats++;
    return tm_py.PyErr_Occurred() == NULL;
}

static bool add_stats(struct build *b, PyObj *stats)
{
    PyObj *file, *lines, *line, *amounts;
    long at = 0, line_at;
    while (tm_py.PyDict_Next(stats, &at, &file, &lines)) {
        if (!tm_pyf.PyObject_IsInstance(lines, tm_pyf.dict_type)) {
            tm_py_raise(tm_pyf.type_error, "stats must be {filename: {lineno: (size, count)}}");
            return false;
        }
        for (line_at = 0; tm_py.PyDict_Next(lines, &line_at, &line, &amounts);)
            if (!add_stat(b, file, line, amounts))
                return false;
    }
    return true;
}

struct facts {
    unsigned long long timestamp_ns;
    long long pid;
    int traceback_limit;
    bool has_traces, has_stats;
};

static void write_strings(struct tms_writer *w, const struct build *b)
{
    const struct tms_str *strings = b->strings.items;
    uint32_t end = 0;
    tms_writer_begin(w, TMS_STRINGS);
    tms_writer_bytes(w, &b->strings.count, sizeof(uint32_t));
    for (uint32_t i = 0; i < b->strings.count; i++) {
        end += (uint32_t)strings[i].n_bytes;
        tms_writer_bytes(w, &end, sizeof(end));
    }
    for (uint32_t i = 0; i < b->strings.count; i++)
        tms_writer_bytes(w, strings[i].bytes, strings[i].n_bytes);
    tms_writer_finish(w);
}

static void write_table(struct tms_writer *w, enum tms_section_type type, const void *items,
                        size_t n_bytes)
{
    tms_writer_begin(w, type);
    tms_writer_bytes(w, items, n_bytes);
    tms_writer_finish(w);
}

static int build_write(const struct build *b, const struct facts *facts, int fd)
{
    struct tms_writer *w = tm_mem_map(sizeof(*w));
    if (w == NULL)
        return -ENOMEM;
    tms_writer_init(w, fd, facts->timestamp_ns, 0);
    write_strings(w, b);
    write_table(w, TMS_SITES, b->sites.items, b->sites.count * sizeof(struct tms_site));
    write_table(w, TMS_NODES, b->nodes.items, b->nodes.count * sizeof(struct tms_node));
    for (size_t i = 0; i < b->n_traces; i++)
        tms_writer_trace(w, &b->traces[i]);
    tms_writer_flush_traces(w);
    write_table(w, TMS_STATS, b->stats, b->n_stats * sizeof(*b->stats));
    tms_writer_begin(w, TMS_FACTS);
    tms_writer_fact_i64(w, "pid", facts->pid);
    tms_writer_fact(w, "python", tm_py.version);
    tms_writer_fact_i64(w, "traceback_limit", facts->traceback_limit);
    tms_writer_fact_i64(w, "traces", facts->has_traces);
    if (!facts->has_stats)
        tms_writer_fact_i64(w, "stats", 0);
    tms_writer_fact(w, "reason", "api");
    tms_writer_fact(w, "tool", "tm " TM_VERSION);
    tms_writer_finish(w);
    int status = tms_writer_end(w);
    tm_mem_unmap(w, sizeof(*w));
    return status;
}

PyObj *tm_build_py_image(PyObj *self, PyObj *args)
{
    PyObj *traces, *stats;
    struct facts facts;
    struct build b;
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "KLiOO", &facts.timestamp_ns, &facts.pid,
                                 &facts.traceback_limit, &traces, &stats))
        return NULL;
    facts.has_traces = traces != tm_py.none;
    facts.has_stats = stats != tm_py.none;
    bool ok = build_init(&b) && (!facts.has_traces || add_traces(&b, traces)) &&
              (!facts.has_stats || add_stats(&b, stats));
    int fd = ok ? tm_memfd("tm-snapshot") : -1;
    int status = fd >= 0 ? build_write(&b, &facts, fd) : -ENOMEM;
    build_done(&b);
    if (!ok)
        return NULL;
    if (status < 0) {
        if (fd >= 0)
            close(fd);
        errno = -status;
        return tm_pyf.PyErr_SetFromErrnoWithFilenameObject(tm_pyf.os_error, NULL);
    }
    return tm_pyimage_wrap(tm_pyimage_adopt_fd(fd));
}
