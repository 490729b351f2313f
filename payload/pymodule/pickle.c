// SPDX-License-Identifier: MIT
#include "payload/pymodule/pickle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "payload/mem.h"

/* Opcodes of Lib/pickletools.py that are used. */
enum {
    OP_MARK = '(',
    OP_STOP = '.',
    OP_NONE = 'N',
    OP_INT1 = 'K',
    OP_INT2 = 'M',
    OP_INT4 = 'J',
    OP_LONG1 = 0x8a,
    OP_FLOAT = 'G',
    OP_TEXT = 'X',
    OP_LIST = ']',
    OP_APPENDS = 'e',
    OP_DICT = '}',
    OP_SETITEMS = 'u',
    OP_TUPLE0 = ')',
    OP_TUPLE = 't',
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_GLOBAL = 'c',
    OP_REDUCE = 'R',
    OP_NEWOBJ = 0x81,
    OP_BUILD = 'b',
    OP_PROTO = 0x80,
    OP_PUT1 = 'q',
    OP_PUT4 = 'r',
    OP_GET1 = 'h',
    OP_GET4 = 'j',
};
enum { BATCH = 1000 };

struct pickler {
    int fd, error;
    size_t used;
    const struct tms_file *file;
    uint32_t *string_memo, *site_memo, *node_memo; /* memo number + 1; 0: not written yet */
    uint32_t next_memo;
    uint32_t unknown_memo;
    unsigned trace_fields; /* of a trace tuple: 2, 3 or 4, by version */
    uint8_t buffer[1 << 16];
};

static void flush(struct pickler *p)
{
    for (size_t at = 0; at < p->used && p->error == 0;) {
        ssize_t n = write(p->fd, p->buffer + at, p->used - at);
        if (n > 0)
            at += (size_t)n;
        else if (n == 0 || errno != EINTR)
            p->error = n == 0 ? EIO : errno;
    }
    p->used = 0;
}

static void put(struct pickler *p, const void *data, size_t n_bytes)
{
    const uint8_t *bytes = data;
    while (n_bytes > 0 && p->error == 0) {
        size_t room = sizeof(p->buffer) - p->used, n = n_bytes < room ? n_bytes : room;
        memcpy(p->buffer + p->used, bytes, n);
        p->used += n;
        bytes += n;
        n_bytes -= n;
        if (p->used == sizeof(p->buffer))
            flush(p);
    }
}

static void op(struct pickler *p, int code)
{
    uint8_t byte = (uint8_t)code;
    put(p, &byte, 1);
}

static void op_number(struct pickler *p, int code, uint64_t number, size_t n_bytes)
{
    op(p, code);
    put(p, &number, n_bytes); /* little-endian, as the machine is */
}

static void put_int(struct pickler *p, int64_t value)
{
    if (value >= 0 && value < 1 << 8) {
        op_number(p, OP_INT1, (uint64_t)value, 1);
    } else if (value >= 0 && value < 1 << 16) {
        op_number(p, OP_INT2, (uint64_t)value, 2);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        op_number(p, OP_INT4, (uint64_t)value, 4);
    } else {
        op_number(p, OP_LONG1, 8, 1);
        put(p, &value, 8);
    }
}

static void put_address(struct pickler *p, uint64_t addr)
{
    if (addr >> 63 == 0) {
        put_int(p, (int64_t)addr);
        return;
    }
    op_number(p, OP_LONG1, 9, 1);
    put(p, &addr, 8);
    op(p, 0); /* the sign */
}

static void put_float(struct pickler *p, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    op_number(p, OP_FLOAT, __builtin_bswap64(bits), 8); /* big-endian, it alone */
}

static void put_text(struct pickler *p, const char *bytes, size_t n_bytes)
{
    op_number(p, OP_TEXT, n_bytes, 4);
    put(p, bytes, n_bytes);
}

static void put_name(struct pickler *p, const char *name)
{
    put_text(p, name, strlen(name));
}

static void put_global(struct pickler *p, const char *module_newline_name_newline)
{
    op(p, OP_GLOBAL);
    put(p, module_newline_name_newline, strlen(module_newline_name_newline));
}

static void memo_get(struct pickler *p, uint32_t memo_plus_1)
{
    uint32_t memo = memo_plus_1 - 1;
    op_number(p, memo < 256 ? OP_GET1 : OP_GET4, memo, memo < 256 ? 1 : 4);
}

static uint32_t memo_put(struct pickler *p)
{
    uint32_t memo = p->next_memo++;
    op_number(p, memo < 256 ? OP_PUT1 : OP_PUT4, memo, memo < 256 ? 1 : 4);
    return memo + 1;
}

static void put_unknown(struct pickler *p)
{
    if (p->unknown_memo != 0) {
        memo_get(p, p->unknown_memo);
        return;
    }
    put_name(p, "<unknown>");
    p->unknown_memo = memo_put(p);
}

/* False: there is no such string; nothing was written. */
static bool put_string(struct pickler *p, uint32_t id)
{
    if (id >= p->file->n_strings)
        return false;
    if (p->string_memo[id] != 0) {
        memo_get(p, p->string_memo[id]);
        return true;
    }
    struct tms_str text = tms_file_string(p->file, id);
    put_text(p, text.bytes ? text.bytes : "", text.n_bytes);
    p->string_memo[id] = memo_put(p);
    return true;
}

static void put_frame(struct pickler *p, uint32_t site)
{
    const struct tms_site *where = site < p->file->n_sites ? &p->file->sites[site] : NULL;
    if (where != NULL && p->site_memo[site] != 0) {
        memo_get(p, p->site_memo[site]);
        return;
    }
    if (!put_string(p, where ? where->file : TMS_NO_ID))
        put_unknown(p);
    put_int(p, where && where->line > 0 ? where->line : 0);
    op(p, OP_TUPLE2);
    if (where != NULL)
        p->site_memo[site] = memo_put(p);
}

static bool is_python(const struct tms_file *file, uint32_t site)
{
    return site >= file->n_sites || (file->sites[site].kind & 0xff) == TMS_SITE_PYTHON;
}

static uint32_t count_frames(const struct tms_file *file, uint32_t node)
{
    uint32_t n = 0;
    for (; node != 0 && node < file->n_nodes; node = file->nodes[node].parent)
        n += is_python(file, file->nodes[node].site);
    return n;
}

static void put_traceback(struct pickler *p, uint32_t node)
{
    if (p->node_memo[node] != 0) {
        memo_get(p, p->node_memo[node]);
        return;
    }
    op(p, OP_MARK);
    if (count_frames(p->file, node) == 0)
        put_frame(p, TMS_NO_ID);
    for (uint32_t i = node; i != 0 && i < p->file->n_nodes; i = p->file->nodes[i].parent)
        if (is_python(p->file, p->file->nodes[i].site))
            put_frame(p, p->file->nodes[i].site);
    op(p, OP_TUPLE);
    p->node_memo[node] = memo_put(p);
}

/* ---- lists over all traces ---- */

struct columns {
    uint64_t address[TMS_GROUP_MAX], size_bytes[TMS_GROUP_MAX];
    uint32_t node[TMS_GROUP_MAX];
};

typedef void put_row(struct pickler *p, const struct columns *c, uint32_t row, uint64_t position);

static void put_trace(struct pickler *p, const struct columns *c, uint32_t row, uint64_t position)
{
    (void)position;
    if (p->trace_fields == 4)
        op(p, OP_MARK);
    if (p->trace_fields > 2)
        put_int(p, 0);
    put_int(p, (int64_t)c->size_bytes[row]);
    put_traceback(p, c->node[row]);
    if (p->trace_fields == 4) {
        uint32_t n = count_frames(p->file, c->node[row]);
        put_int(p, n ? n : 1);
    }
    op(p, p->trace_fields == 4 ? OP_TUPLE : p->trace_fields == 3 ? OP_TUPLE3 : OP_TUPLE2);
}

static void put_trace_address(struct pickler *p, const struct columns *c, uint32_t row,
                              uint64_t position)
{
    (void)position;
    put_address(p, c->address[row]);
}

static void put_empty_position(struct pickler *p, const struct columns *c, uint32_t row,
                               uint64_t position)
{
    if (count_frames(p->file, c->node[row]) == 0)
        put_int(p, (int64_t)position);
}

static void put_rows(struct pickler *p, struct columns *c, put_row *put_one)
{
    struct tms_error error;
    uint64_t position = 0;
    op(p, OP_LIST);
    for (uint32_t group = 0; group < p->file->n_groups && p->error == 0; group++) {
        struct tms_columns wanted = {
            .address = c->address, .size_bytes = c->size_bytes, .node = c->node};
        if (!tms_group_decode(p->file, group, &wanted, &error)) {
            p->error = EINVAL;
            return;
        }
        uint32_t count = p->file->groups[group].head->count;
        for (uint32_t i = 0; i < count; i++, position++) {
            if (i % BATCH == 0)
                op(p, OP_MARK);
            put_one(p, c, i, position);
            if (i % BATCH == BATCH - 1 || i == count - 1)
                op(p, OP_APPENDS);
        }
    }
}

static void put_traces(struct pickler *p, const struct tm_pyimage *image, struct columns *c)
{
    put_name(p, "traces");
    if (!image->has_traces) {
        op(p, OP_NONE);
        return;
    }
    put_global(p, "tracemalloc\n_Traces\n");
    op(p, OP_TUPLE0);
    op(p, OP_NEWOBJ);
    op(p, OP_DICT);
    op(p, OP_MARK);
    put_name(p, "_traces");
    put_rows(p, c, put_trace);
    op(p, OP_SETITEMS);
    op(p, OP_BUILD);
    put_name(p, "addresses");
    put_rows(p, c, put_trace_address);
    put_name(p, "empty_tracebacks");
    put_rows(p, c, put_empty_position);
}

/* ---- the other attributes ---- */

struct line_total {
    uint32_t file; /* string; TMS_NO_ID: unknown */
    int32_t line;
    uint64_t bytes, blocks;
};

static int by_file_and_line(const void *a, const void *b)
{
    const struct line_total *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return (x->line > y->line) - (x->line < y->line);
}

/* Stats of sites that share a line become one. The number that is left. */
static size_t merge_lines(struct line_total *lines, size_t n)
{
    size_t used = 0;
    qsort(lines, n, sizeof(*lines), by_file_and_line);
    for (size_t i = 0; i < n; i++) {
        if (used > 0 && by_file_and_line(&lines[used - 1], &lines[i]) == 0) {
            lines[used - 1].bytes += lines[i].bytes;
            lines[used - 1].blocks += lines[i].blocks;
        } else {
            lines[used++] = lines[i];
        }
    }
    return used;
}

static void put_line(struct pickler *p, const struct line_total *line)
{
    if (line->line > 0)
        put_int(p, line->line);
    else
        op(p, OP_NONE);
    put_int(p, (int64_t)line->bytes);
    put_int(p, (int64_t)line->blocks);
    op(p, OP_TUPLE2);
}

static void put_stats(struct pickler *p, const struct tm_pyimage *image)
{
    const struct tms_file *file = &image->file;
    struct line_total *lines = calloc((size_t)file->n_stats + 1, sizeof(*lines));
    size_t n = 0;
    put_name(p, "stats");
    if (lines == NULL)
        p->error = ENOMEM;
    if (lines == NULL || !image->has_stats) {
        op(p, OP_NONE);
        free(lines);
        return;
    }
    for (uint32_t i = 0; i < file->n_stats; i++) {
        const struct tms_stat *stat = &file->stats[i];
        const struct tms_site *site = stat->site < file->n_sites ? &file->sites[stat->site] : NULL;
        if (stat->live_blocks != 0)
            lines[n++] = (struct line_total){site ? site->file : TMS_NO_ID, site ? site->line : 0,
                                             stat->live_bytes, stat->live_blocks};
    }
    n = merge_lines(lines, n);
    op(p, OP_DICT);
    op(p, OP_MARK);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || lines[i].file != lines[i - 1].file) {
            if (!put_string(p, lines[i].file))
                op(p, OP_NONE);
            op(p, OP_DICT);
            op(p, OP_MARK);
        }
        put_line(p, &lines[i]);
        if (i + 1 == n || lines[i + 1].file != lines[i].file)
            op(p, OP_SETITEMS);
    }
    op(p, OP_SETITEMS);
    free(lines);
}

/* (name, value, format) of the list; false with an exception. */
static bool put_metric(struct pickler *p, PyObj *entry)
{
    PyObj *name, *value;
    const char *format;
    if (!tm_pyf.PyArg_ParseTuple(entry, "OOs", &name, &value, &format))
        return false;
    PyObj *bytes = tm_pyf.PyUnicode_AsEncodedString(name, "utf-8", "surrogatepass");
    if (bytes == NULL)
        return false;
    put_text(p, tm_pyf.PyBytes_AsString(bytes), (size_t)tm_pyf.PyBytes_Size(bytes));
    tm_py_decref(bytes);
    if (strcmp(format, "percent") == 0)
        put_float(p, tm_pyf.PyFloat_AsDouble(value));
    else
        put_int(p, tm_pyf.PyLong_AsLongLong(value));
    put_name(p, format);
    op(p, OP_TUPLE2);
    return tm_py.PyErr_Occurred() == NULL;
}

static bool put_metrics(struct pickler *p, PyObj *metrics)
{
    PySize n = metrics ? tm_pyf.PyList_Size(metrics) : 0;
    put_name(p, "metrics");
    op(p, OP_DICT);
    op(p, OP_MARK);
    for (PySize i = 0; i < n; i++)
        if (!put_metric(p, tm_pyf.PyList_GetItem(metrics, i)))
            return false;
    op(p, OP_SETITEMS);
    return true;
}

static void put_timestamp(struct pickler *p, uint64_t timestamp_ns)
{
    time_t seconds = (time_t)(timestamp_ns / 1000000000u);
    struct tm local = {0};
    localtime_r(&seconds, &local);
    const int fields[] = {local.tm_year + 1900,
                          local.tm_mon + 1,
                          local.tm_mday,
                          local.tm_hour,
                          local.tm_min,
                          local.tm_sec,
                          (int)(timestamp_ns % 1000000000u / 1000)};
    put_name(p, "timestamp");
    put_global(p, "datetime\ndatetime\n");
    op(p, OP_MARK);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        put_int(p, fields[i]);
    op(p, OP_TUPLE);
    op(p, OP_REDUCE);
    put_name(p, "timestamp_ns");
    put_int(p, (int64_t)timestamp_ns);
}

static void put_number(struct pickler *p, const char *name, int64_t value)
{
    put_name(p, name);
    put_int(p, value);
}

static bool put_snapshot(struct pickler *p, const struct tm_pyimage *image,
                         const struct tm_pyextras *extras, struct columns *c)
{
    const struct tms_file *file = &image->file;
    op_number(p, OP_PROTO, 2, 1);
    put_global(p, "tracemalloc\nSnapshot\n");
    op(p, OP_TUPLE0);
    op(p, OP_NEWOBJ);
    op(p, OP_DICT);
    op(p, OP_MARK);
    if (!put_metrics(p, extras->metrics))
        return false;
    put_number(p, "pid", extras->pid >= 0 ? extras->pid : tms_file_fact_i64(file, "pid", 0));
    put_number(p, "traceback_limit",
               extras->traceback_limit >= 0 ? extras->traceback_limit
                                            : tms_file_fact_i64(file, "traceback_limit", 1));
    put_timestamp(p, extras->timestamp_ns);
    tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
    put_stats(p, image);
    put_traces(p, image, c);
    op(p, OP_SETITEMS);
    op(p, OP_BUILD);
    op(p, OP_STOP);
    flush(p);
    tm_pyf.PyEval_RestoreThread(tstate);
    return true;
}

int tm_pickle_write(const struct tm_pyimage *image, const struct tm_pyextras *extras, int fd)
{
    const struct tms_file *file = &image->file;
    struct pickler *p = tm_mem_map(sizeof(*p));
    struct columns *c = tm_mem_map(sizeof(*c));
    int status = -ENOMEM;
    if (p != NULL && c != NULL) {
        p->fd = fd;
        p->file = file;
        p->trace_fields = tm_py.version_hex >= 0x03090000   ? 4
                          : tm_py.version_hex >= 0x03060000 ? 3
                                                            : 2;
        p->string_memo = calloc((size_t)file->n_strings + 1, sizeof(uint32_t));
        p->site_memo = calloc((size_t)file->n_sites + 1, sizeof(uint32_t));
        p->node_memo = calloc((size_t)file->n_nodes + 1, sizeof(uint32_t));
        if (p->string_memo && p->site_memo && p->node_memo)
            status = put_snapshot(p, image, extras, c) ? -p->error : -EILSEQ;
        free(p->string_memo);
        free(p->site_memo);
        free(p->node_memo);
    }
    tm_mem_unmap(c, sizeof(*c));
    tm_mem_unmap(p, sizeof(*p));
    return status;
}
