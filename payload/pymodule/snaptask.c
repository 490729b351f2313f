// SPDX-License-Identifier: MIT
#include "payload/pymodule/snaptask.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <time.h>

#include "payload/clock.h"
#include "payload/hooks.h"
#include "payload/pymodule/image.h"
#include "payload/pymodule/live.h"
#include "payload/pymodule/metrics.h"
#include "payload/pymodule/save.h"
#include "payload/template.h"
#include "payload/tracer.h"

/* What a task says, read before anything is done. */
struct terms {
    PyObj *template; /* str, borrowed from the task's dictionary */
    bool traces, metrics;
    long long counter;
};

/* ---- is it plain? ---- */

/* ((namespace, name, value), ...): python/parts/tasks.py. True where all values are in place. */
static bool all_in_place(PyObj *triples)
{
    bool same = true;
    for (PySize i = 0; same && i < tm_pyf.PyTuple_Size(triples); i++) {
        PyObj *triple = tm_pyf.PyTuple_GetItem(triples, i);
        PyObj *now = tm_pyf.PyObject_CallMethod(tm_pyf.PyTuple_GetItem(triple, 0), "get", "O",
                                                tm_pyf.PyTuple_GetItem(triple, 1));
        same = now == tm_pyf.PyTuple_GetItem(triple, 2);
        tm_py_decref(now);
    }
    return same;
}

static bool is_class_as_made(PyObj *task)
{
    PyObj *as_made = tm_py.PyObject_GetAttrString(tm_py_type(task), "_as_made");
    bool same = as_made != NULL && tm_py_type(as_made) == tm_pyf.tuple_type &&
                tm_pyf.PyTuple_GetItem(as_made, 0) == tm_py_type(task) &&
                all_in_place(tm_pyf.PyTuple_GetItem(as_made, 1));
    tm_py_decref(as_made);
    return same;
}

/* The function of a method; of a function itself, which is what 3.x has in a class. */
static PyObj *function_of(PyObj *object, const char *name)
{
    PyObj *method = name ? tm_py.PyObject_GetAttrString(object, name) : tm_py_incref(object);
    PyObj *function = method ? tm_py.PyObject_GetAttrString(method, "__func__") : NULL;
    if (function == NULL)
        return method;
    tm_py_decref(method);
    return function;
}

/* The function is the task's own method take_snapshot. */
static bool calls_itself(PyObj *task, PyObj *dict)
{
    PyObj *func = tm_pyf.PyDict_GetItemString(dict, "_func");
    PyObj *args = tm_pyf.PyDict_GetItemString(dict, "_func_args");
    PyObj *bound_to = func ? tm_py.PyObject_GetAttrString(func, "__self__") : NULL;
    PyObj *bound = func ? function_of(func, NULL) : NULL;
    PyObj *own = function_of(tm_py_type(task), "take_snapshot");
    tm_py.PyErr_Clear();
    bool same = bound_to == task && bound != NULL && bound == own && args != NULL &&
                tm_pyf.PyTuple_Size(args) == 0 &&
                tm_pyf.PyDict_GetItemString(dict, "_func_kwargs") == tm_py.none &&
                tm_pyf.PyDict_GetItemString(dict, "call") == NULL;
    tm_py_decref(own);
    tm_py_decref(bound);
    tm_py_decref(bound_to);
    return same;
}

/* False: it is neither True nor False, and might run the program's code to tell. */
static bool read_flag(PyObj *dict, const char *name, bool *ret)
{
    PyObj *value = tm_pyf.PyDict_GetItemString(dict, name);
    if (value == NULL || tm_py_type(value) != tm_py_type(tm_pyf.true_object))
        return false;
    *ret = value == tm_pyf.true_object;
    return true;
}

/* int, and 2.7's long: bool is made of the former everywhere. */
static bool is_int(PyObj *value)
{
    PyObj *base = tm_py.PyObject_GetAttrString(tm_py_type(tm_pyf.true_object), "__base__");
    bool same =
        value != NULL && (tm_py_type(value) == tm_pyf.int_type || tm_py_type(value) == base);
    tm_py_decref(base);
    return same;
}

/* str: what text of ours becomes. */
static bool is_text(PyObj *value)
{
    PyObj *text = tm_py_text("", 0);
    bool same = value != NULL && text != NULL && tm_py_type(value) == tm_py_type(text);
    tm_py_decref(text);
    return same;
}

static bool read_terms(PyObj *dict, struct terms *ret)
{
    PyObj *counter = tm_pyf.PyDict_GetItemString(dict, "counter");
    ret->template = tm_pyf.PyDict_GetItemString(dict, "filename_template");
    if (!is_text(ret->template) || !is_int(counter))
        return false;
    ret->counter = tm_pyf.PyLong_AsLongLong(counter);
    return ret->counter >= 0 && ret->counter < LLONG_MAX &&
           read_flag(dict, "traces", &ret->traces) && read_flag(dict, "metrics", &ret->metrics) &&
           tm_pyf.PyDict_GetItemString(dict, "callback") == tm_py.none;
}

/* ---- what Snapshot.add_gc_metrics and its kin add ---- */

/* Takes `value` over. */
static bool add_metric(PyObj *metrics, const char *name, PyObj *value, const char *format)
{
    PyObj *entry = value ? tm_pyf.PyTuple_New(3) : NULL;
    PyObj *texts[] = {tm_py_text(name, strlen(name)), tm_py_text(format, strlen(format))};
    bool ok = entry != NULL && texts[0] != NULL && texts[1] != NULL;
    if (ok) {
        tm_pyf.PyTuple_SetItem(entry, 0, texts[0]);
        tm_pyf.PyTuple_SetItem(entry, 1, value);
        tm_pyf.PyTuple_SetItem(entry, 2, texts[1]);
        ok = tm_pyf.PyList_Append(metrics, entry) == 0;
    } else {
        tm_py_decref(texts[0]);
        tm_py_decref(texts[1]);
        tm_py_decref(value);
    }
    tm_py_decref(entry);
    return ok;
}

static bool add_size(PyObj *metrics, const char *name, uint64_t bytes)
{
    return add_metric(metrics, name, tm_pyf.PyLong_FromUnsignedLongLong(bytes), "size");
}

static bool add_gc(PyObj *metrics)
{
    PyObj *gc = tm_pyf.PyImport_ImportModule("gc");
    PyObj *objects = gc ? tm_pyf.PyObject_CallMethod(gc, "get_objects", NULL) : NULL;
    PySize count = objects ? tm_pyf.PyList_Size(objects) : 0;
    bool ok = objects != NULL;
    tm_py_decref(objects);
    tm_py_decref(gc);
    return ok && add_metric(metrics, "gc.objects", tm_pyf.PyLong_FromLongLong(count), "int");
}

static bool add_process_memory(PyObj *metrics)
{
    PyObj *memory = tm_live_get_process_memory(NULL, NULL);
    bool ok = memory != NULL;
    if (ok && memory != tm_py.none)
        ok = add_metric(metrics, "process_memory.rss",
                        tm_py_incref(tm_pyf.PyTuple_GetItem(memory, 0)), "size") &&
             add_metric(metrics, "process_memory.vms",
                        tm_py_incref(tm_pyf.PyTuple_GetItem(memory, 1)), "size");
    tm_py_decref(memory);
    return ok;
}

static bool add_arenas(PyObj *metrics)
{
    PyObj *bytes = tm_metric_arena_size(NULL, NULL);
    if (bytes != NULL)
        return add_metric(metrics, "tracemalloc.arena_size", bytes, "size");
    if (!tm_pyf.PyErr_ExceptionMatches(tm_pyf.not_implemented_error))
        return false;
    tm_py.PyErr_Clear();
    return true;
}

static bool add_own(PyObj *metrics)
{
    tm_py_decref(tm_live_get_own_memory(NULL, NULL)); /* looks how much it is */
    struct tm_totals totals = tm_tracer_totals();
    double fragmentation =
        totals.own_bytes ? (double)totals.own_free_bytes / (double)totals.own_bytes : 0;
    return (totals.own_bytes == 0 ||
            add_metric(metrics, "tracemalloc.module.fragmentation",
                       tm_pyf.PyFloat_FromDouble(fragmentation), "percent")) &&
           add_size(metrics, "tracemalloc.module.free", totals.own_free_bytes) &&
           add_size(metrics, "tracemalloc.module.size", totals.own_bytes) &&
           add_size(metrics, "tracemalloc.traced.max_size", totals.peak_bytes) &&
           add_size(metrics, "tracemalloc.traced.size", totals.traced_bytes);
}

/* In the order of their names, as Snapshot.write has them. A new list; NULL with an exception. */
static PyObj *make_metrics(const struct terms *terms, const struct tm_pyimage *image)
{
    PyObj *metrics = tm_pyf.PyList_New(0);
    if (metrics == NULL || !terms->metrics)
        return metrics;
    bool ok = add_gc(metrics) && add_process_memory(metrics) && add_arenas(metrics) &&
              add_own(metrics) &&
              (!terms->traces ||
               add_metric(metrics, "tracemalloc.traces",
                          tm_pyf.PyLong_FromUnsignedLongLong(image->file.end.traces), "int"));
    if (!ok) {
        tm_py_decref(metrics);
        return NULL;
    }
    return metrics;
}

/* ---- the call ---- */

/* False with an exception. */
static bool expand(const struct terms *terms, uint64_t timestamp_ns, int64_t pid, char *ret)
{
    time_t seconds = (time_t)(timestamp_ns / TM_NS_PER_S);
    struct tm local = {0};
    localtime_r(&seconds, &local);
    const struct tm_template_values values = {
        .pid = (uint64_t)pid,
        .counter = (uint64_t)terms->counter,
        .real_ns = timestamp_ns,
        .utc_offset_s = local.tm_gmtoff,
    };
    PyObj *bytes = tm_pyf.PyUnicode_EncodeFSDefault(terms->template);
    if (bytes == NULL)
        return false;
    const char *template = tm_py_file_name(bytes);
    if (template == NULL) {
        tm_py_decref(bytes);
        return false;
    }
    bool fits = tm_template_expand(template, &values, ret, PATH_MAX);
    tm_py_decref(bytes);
    if (!fits) {
        errno = ENAMETOOLONG;
        tm_pyf.PyErr_SetFromErrnoWithFilenameObject(tm_pyf.os_error, terms->template);
    }
    return fits;
}

static bool advance_counter(PyObj *task, const struct terms *terms)
{
    PyObj *next = tm_pyf.PyLong_FromLongLong(terms->counter + 1);
    int status = next ? tm_pyf.PyObject_SetAttrString(task, "counter", next) : -1;
    tm_py_decref(next);
    return status == 0;
}

static bool write(PyObj *task, const struct terms *terms, const struct tm_pyimage *image,
                  PyObj *metrics)
{
    char path[PATH_MAX];
    const struct tm_pyextras extras = {
        .timestamp_ns = image->file.timestamp_ns / 1000 * 1000, /* a datetime has no more */
        .pid = tms_file_fact_i64(&image->file, "pid", -1),
        .traceback_limit = -1,
        .metrics = metrics,
    };
    if (!expand(terms, extras.timestamp_ns, extras.pid, path) || !advance_counter(task, terms))
        return false;
    int status = tm_save_image(image, &extras, path);
    if (status < 0 && status != -EILSEQ) {
        PyObj *name = tm_py_text(path, strlen(path));
        errno = -status;
        tm_pyf.PyErr_SetFromErrnoWithFilenameObject(tm_pyf.os_error, name ? name : terms->template);
        tm_py_decref(name);
    }
    return status == 0;
}

static bool take(PyObj *task, const struct terms *terms)
{
    struct tm_pyimage *image = tm_pyimage_take(terms->traces);
    PyObj *metrics = image ? make_metrics(terms, image) : NULL;
    bool ok = metrics != NULL && write(task, terms, image, metrics);
    tm_py_decref(metrics);
    tm_pyimage_unref(image);
    return ok;
}

enum tm_snaptask_outcome tm_snaptask_call(PyObj *task)
{
    struct terms terms;
    /* A free-threaded build's hooks cannot be muted; Python code of ours is not traced there. */
    if (!tm_tracer_is_enabled() || tm_py.free_threaded)
        return TM_SNAPTASK_NOT_PLAIN;
    tm_hooks_mute_here();
    PyObj *dict = is_class_as_made(task) ? tm_py.PyObject_GetAttrString(task, "__dict__") : NULL;
    bool plain = dict != NULL && calls_itself(task, dict) && read_terms(dict, &terms);
    bool ok = plain;
    tm_py.PyErr_Clear();
    if (plain) {
        tm_py_incref(
            terms.template); /* another thread may change the task while the file is written */
        ok = take(task, &terms);
        tm_py_decref(terms.template);
    }
    tm_py_decref(dict);
    tm_hooks_unmute();
    return !plain ? TM_SNAPTASK_NOT_PLAIN : ok ? TM_SNAPTASK_DONE : TM_SNAPTASK_FAILED;
}
