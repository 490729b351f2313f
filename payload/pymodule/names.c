// SPDX-License-Identifier: MIT
#include "payload/pymodule/names.h"

#include <stdlib.h>

PyObj *tm_py_text(const char *bytes, size_t n_bytes)
{
    return tm_pyf.PyUnicode_DecodeUTF8(bytes, (PySize)n_bytes, "surrogatepass");
}

PyObj *tm_py_tuple2(PyObj *a, PyObj *b)
{
    PyObj *tuple = a && b ? tm_pyf.PyTuple_New(2) : NULL;
    if (tuple == NULL) {
        tm_py_decref(a);
        tm_py_decref(b);
        return NULL;
    }
    tm_pyf.PyTuple_SetItem(tuple, 0, a);
    tm_pyf.PyTuple_SetItem(tuple, 1, b);
    return tuple;
}

PyObj *tm_py_pair(uint64_t a, uint64_t b)
{
    return tm_py_tuple2(tm_pyf.PyLong_FromUnsignedLongLong(a),
                        tm_pyf.PyLong_FromUnsignedLongLong(b));
}

bool tm_pynames_init(struct tm_pynames *p, const struct tm_names *names)
{
    *p = (struct tm_pynames){.names = *names};
    p->strings = calloc((size_t)names->n_strings + 1, sizeof(*p->strings));
    p->frames = calloc((size_t)names->n_sites + 1, sizeof(*p->frames));
    p->tracebacks = calloc((size_t)names->n_nodes + 1, sizeof(*p->tracebacks));
    p->equals = tm_pyf.PyDict_New();
    if (p->strings && p->frames && p->tracebacks && p->equals)
        return true;
    tm_pyf.PyErr_NoMemory();
    tm_pynames_done(p);
    return false;
}

static void drop(PyObj **objects, uint32_t n)
{
    for (uint32_t i = 0; objects != NULL && i <= n; i++)
        tm_py_decref(objects[i]);
    free(objects);
}

void tm_pynames_done(struct tm_pynames *p)
{
    drop(p->strings, p->names.n_strings);
    drop(p->frames, p->names.n_sites);
    drop(p->tracebacks, p->names.n_nodes);
    tm_py_decref(p->equals);
    *p = (struct tm_pynames){0};
}

PyObj *tm_pynames_string(struct tm_pynames *p, uint32_t id)
{
    if (id >= p->names.n_strings)
        return tm_py.none;
    if (p->strings[id] == NULL) {
        struct tms_str text = p->names.string(p->names.source, id);
        p->strings[id] = tm_py_text(text.bytes ? text.bytes : "", text.n_bytes);
    }
    return p->strings[id];
}

static PyObj *new_line(int32_t line)
{
    return line < 1 ? tm_py_none() : tm_pyf.PyLong_FromLongLong(line);
}

PyObj *tm_pynames_frame(struct tm_pynames *p, uint32_t site)
{
    struct tms_site where = {.file = TMS_NO_ID};
    uint32_t slot = site < p->names.n_sites ? site : p->names.n_sites;
    if (p->frames[slot] != NULL)
        return p->frames[slot];
    if (site < p->names.n_sites)
        where = p->names.site(p->names.source, site);
    PyObj *file = tm_pynames_string(p, where.file);
    if (file == NULL)
        return NULL;
    return p->frames[slot] = tm_py_tuple2(tm_py_incref(file), new_line(where.line));
}

static bool is_python(struct tm_pynames *p, uint32_t site)
{
    return site >= p->names.n_sites ||
           (p->names.site(p->names.source, site).kind & 0xff) == TMS_SITE_PYTHON;
}

/* Frames of C code, where a snapshot has them, are not part of this API. */
static PySize count_frames(struct tm_pynames *p, uint32_t node)
{
    PySize n = 0;
    while (node != 0 && node < p->names.n_nodes) {
        struct tms_node step = p->names.node(p->names.source, node);
        n += is_python(p, step.site);
        node = step.parent;
    }
    return n;
}

static PyObj *new_traceback(struct tm_pynames *p, uint32_t node)
{
    PySize at = 0;
    PyObj *traceback = tm_pyf.PyTuple_New(count_frames(p, node));
    while (traceback != NULL && node != 0 && node < p->names.n_nodes) {
        struct tms_node step = p->names.node(p->names.source, node);
        node = step.parent;
        if (!is_python(p, step.site))
            continue;
        PyObj *frame = tm_pynames_frame(p, step.site);
        if (frame == NULL) {
            tm_py_decref(traceback);
            return NULL;
        }
        tm_pyf.PyTuple_SetItem(traceback, at++, tm_py_incref(frame));
    }
    return traceback;
}

/* Two nodes differ where functions do; as tuples of files and lines they can be equal. */
PyObj *tm_pynames_traceback(struct tm_pynames *p, uint32_t node)
{
    if (node >= p->names.n_nodes)
        node = 0;
    if (p->tracebacks[node] != NULL)
        return p->tracebacks[node];
    PyObj *made = new_traceback(p, node);
    if (made == NULL)
        return NULL;
    PyObj *known = tm_pyf.PyDict_GetItem(p->equals, made);
    if (known != NULL) {
        tm_py_decref(made);
        return p->tracebacks[node] = tm_py_incref(known);
    }
    if (tm_pyf.PyDict_SetItem(p->equals, made, made) < 0) {
        tm_py_decref(made);
        return NULL;
    }
    return p->tracebacks[node] = made;
}

/* dict[key] = value; takes both references over. */
static bool set_item(PyObj *dict, PyObj *key, PyObj *value)
{
    bool ok = key && value && tm_pyf.PyDict_SetItem(dict, key, value) == 0;
    tm_py_decref(key);
    tm_py_decref(value);
    return ok;
}

bool tm_pynames_add_trace(struct tm_pynames *p, PyObj *traces, uint64_t addr, uint64_t size_bytes,
                          uint32_t node)
{
    PyObj *traceback = tm_pynames_traceback(p, node);
    if (traceback == NULL)
        return false;
    PyObj *trace =
        tm_py_tuple2(tm_pyf.PyLong_FromUnsignedLongLong(size_bytes), tm_py_incref(traceback));
    return set_item(traces, tm_pyf.PyLong_FromUnsignedLongLong(addr), trace);
}

bool tm_pynames_add_stat(struct tm_pynames *p, PyObj *stats, uint32_t site, uint64_t bytes,
                         uint64_t blocks)
{
    PyObj *frame = tm_pynames_frame(p, site);
    if (frame == NULL)
        return false;
    PyObj *file = tm_pyf.PyTuple_GetItem(frame, 0), *line = tm_pyf.PyTuple_GetItem(frame, 1);
    PyObj *lines = tm_pyf.PyDict_GetItem(stats, file);
    if (lines == NULL) {
        if (!set_item(stats, tm_py_incref(file), tm_pyf.PyDict_New()))
            return false;
        lines = tm_pyf.PyDict_GetItem(stats, file);
    }
    /* Sites of one line can be several: by function, and after the code was loaded again. */
    PyObj *known = tm_pyf.PyDict_GetItem(lines, line);
    if (known != NULL) {
        bytes += tm_pyf.PyLong_AsUnsignedLongLong(tm_pyf.PyTuple_GetItem(known, 0));
        blocks += tm_pyf.PyLong_AsUnsignedLongLong(tm_pyf.PyTuple_GetItem(known, 1));
    }
    return set_item(lines, tm_py_incref(line), tm_py_pair(bytes, blocks));
}
