// SPDX-License-Identifier: MIT
#include "payload/pymodule/livefilters.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "payload/pymodule/names.h"
#include "payload/tracer.h"

static struct tm_filter_spec *specs; /* patterns are ours, of malloc */
static size_t n_specs;

static void forget(void)
{
    for (size_t i = 0; i < n_specs; i++)
        free((void *)(uintptr_t)specs[i].pattern);
    free(specs);
    specs = NULL;
    n_specs = 0;
}

/* Appends a copy. False: no memory. */
static bool append(const struct tm_filter_spec *spec)
{
    struct tm_filter_spec *grown = realloc(specs, (n_specs + 1) * sizeof(*grown));
    char *pattern = malloc(spec->n_bytes + 1);
    if (grown != NULL)
        specs = grown;
    if (grown == NULL || pattern == NULL) {
        free(pattern);
        return false;
    }
    memcpy(pattern, spec->pattern, spec->n_bytes);
    specs[n_specs] = *spec;
    specs[n_specs++].pattern = pattern;
    return true;
}

static void drop_last(void)
{
    free((void *)(uintptr_t)specs[--n_specs].pattern);
}

void tm_session_set_filters(const struct tm_filter_spec *set, size_t n_set)
{
    forget();
    for (size_t i = 0; i < n_set; i++)
        append(&set[i]);
}

static PyObj *raise_status(int status)
{
    if (status == -EINVAL)
        return tm_py_raise(tm_pyf.value_error, "too many joker characters in the filename pattern");
    if (status == -E2BIG)
        return tm_py_raise(tm_pyf.value_error, "too many filters");
    return tm_pyf.PyErr_NoMemory();
}

PyObj *tm_livefilters_py_add(PyObj *self, PyObj *filter)
{
    int include, traceback;
    PyObj *pattern, *line;
    struct tm_filter_spec spec = {0};
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(filter, "iOOi", &include, &pattern, &line, &traceback))
        return NULL;
    if (line != tm_py.none) {
        long long number = tm_pyf.PyLong_AsLongLong(line);
        if (number == -1 && tm_py.PyErr_Occurred())
            return NULL;
        spec.line = number < 1 ? 0 : number > INT32_MAX ? INT32_MAX : (int32_t)number;
    }
    PyObj *bytes = tm_pyf.PyUnicode_AsEncodedString(pattern, "utf-8", "surrogatepass");
    if (bytes == NULL)
        return NULL;
    spec.pattern = tm_pyf.PyBytes_AsString(bytes);
    spec.n_bytes = (size_t)tm_pyf.PyBytes_Size(bytes);
    spec.flags = (include ? TM_FILTERS_INCLUDE : 0u) | (traceback ? TM_FILTERS_TRACEBACK : 0u);
    int status = append(&spec) ? tm_tracer_set_filters(specs, n_specs) : -ENOMEM;
    if (status < 0 && status != -ENOMEM)
        drop_last();
    tm_py_decref(bytes);
    return status < 0 ? raise_status(status) : tm_py_none();
}

void tm_livefilters_clear(void)
{
    forget();
    tm_tracer_set_filters(NULL, 0);
}

PyObj *tm_livefilters_py_clear(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    tm_livefilters_clear();
    return tm_py_none();
}

static PyObj *make_entry(const struct tm_filter_spec *spec)
{
    PyObj *entry = tm_pyf.PyTuple_New(4);
    PyObj *pattern = tm_py_text(spec->pattern, spec->n_bytes);
    if (entry == NULL || pattern == NULL) {
        tm_py_decref(entry);
        tm_py_decref(pattern);
        return NULL;
    }
    tm_pyf.PyTuple_SetItem(entry, 0, tm_pyf.PyBool_FromLong(spec->flags & TM_FILTERS_INCLUDE));
    tm_pyf.PyTuple_SetItem(entry, 1, pattern);
    tm_pyf.PyTuple_SetItem(entry, 2,
                           spec->line < 1 ? tm_py_none() : tm_pyf.PyLong_FromLongLong(spec->line));
    tm_pyf.PyTuple_SetItem(entry, 3,
                           tm_pyf.PyBool_FromLong((spec->flags & TM_FILTERS_TRACEBACK) != 0));
    return entry;
}

PyObj *tm_livefilters_py_get(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    PyObj *list = tm_pyf.PyList_New(0);
    for (size_t i = 0; list != NULL && i < n_specs; i++) {
        PyObj *entry = make_entry(&specs[i]);
        if (entry == NULL || tm_pyf.PyList_Append(list, entry) < 0) {
            tm_py_decref(list);
            list = NULL;
        }
        tm_py_decref(entry);
    }
    return list;
}
