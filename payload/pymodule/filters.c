// SPDX-License-Identifier: MIT
#include "payload/pymodule/filters.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "analyzer/core/filter.h"
#include "payload/pymodule/image.h"

/* False with an exception. */
static bool make_filter(struct tm_filter *filter, unsigned flags, PyObj *pattern, int32_t line)
{
    PyObj *bytes = tm_pyf.PyUnicode_AsEncodedString(pattern, "utf-8", "surrogatepass");
    if (bytes == NULL)
        return false;
    enum tm_filter_status status = tm_filter_init(filter, flags, tm_pyf.PyBytes_AsString(bytes),
                                                  (size_t)tm_pyf.PyBytes_Size(bytes), line);
    tm_py_decref(bytes);
    if (status == TM_FILTER_TOO_MANY_JOKERS)
        tm_py_raise(tm_pyf.value_error, "too many joker characters in the filename pattern");
    else if (status != TM_FILTER_OK)
        tm_pyf.PyErr_NoMemory();
    return status == TM_FILTER_OK;
}

PyObj *tm_filter_py_normalize(PyObj *self, PyObj *pattern)
{
    struct tm_filter filter;
    (void)self;
    if (!make_filter(&filter, TM_FILTER_INCLUDE, pattern, 0))
        return NULL;
    PyObj *text = tm_py_text(filter.pattern, filter.pattern_bytes);
    tm_filter_done(&filter);
    return text;
}

/* None and what is below 1 are 0: any line of a filter, the unknown line of a frame. */
static bool read_line(PyObj *line, int32_t *ret)
{
    *ret = 0;
    if (line == tm_py.none)
        return true;
    long long number = tm_pyf.PyLong_AsLongLong(line);
    if (number == -1 && tm_py.PyErr_Occurred())
        return false;
    if (number >= 1)
        *ret = number > INT32_MAX ? INT32_MAX : (int32_t)number;
    return true;
}

PyObj *tm_filter_py_match(PyObj *self, PyObj *args)
{
    PyObj *pattern, *wanted, *name, *line;
    struct tm_filter filter;
    int32_t wanted_line, line_number;
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "OOOO", &pattern, &wanted, &name, &line) ||
        !read_line(wanted, &wanted_line) || !read_line(line, &line_number))
        return NULL;
    if (name == tm_py.none)
        return tm_pyf.PyBool_FromLong(0);
    if (!make_filter(&filter, TM_FILTER_INCLUDE, pattern, wanted_line))
        return NULL;
    PyObj *result = NULL, *bytes = tm_pyf.PyUnicode_AsEncodedString(name, "utf-8", "surrogatepass");
    if (bytes != NULL) {
        struct tms_str text = {tm_pyf.PyBytes_AsString(bytes), (size_t)tm_pyf.PyBytes_Size(bytes)};
        result = tm_pyf.PyBool_FromLong(tm_filter_keeps(&filter, text, line_number));
        tm_py_decref(bytes);
    }
    tm_filter_done(&filter);
    return result;
}

static bool read_filter(PyObj *entry, struct tm_filter *ret)
{
    int include, traceback;
    PyObj *pattern, *line;
    int32_t line_number;
    if (!tm_pyf.PyArg_ParseTuple(entry, "iOOi", &include, &pattern, &line, &traceback) ||
        !read_line(line, &line_number))
        return false;
    return make_filter(ret,
                       (include ? TM_FILTER_INCLUDE : 0u) | (traceback ? TM_FILTER_TRACEBACK : 0u),
                       pattern, line_number);
}

static struct tm_pyimage *sift(const struct tm_pyimage *source, const struct tm_filter *filters,
                               size_t n)
{
    struct tm_model model = {0};
    struct tm_image image = {0};
    struct tm_pyextras extras = {
        .timestamp_ns = source->file.timestamp_ns, .pid = -1, .traceback_limit = -1};
    int fd = tm_memfd("tm-snapshot"), status = -ENOMEM;
    if (fd >= 0 && tm_model_init(&model) && tm_image_init(&image, &model, &source->file) &&
        tm_filters_apply(filters, n, &image)) {
        extras.keep_node = image.keep_node;
        extras.keep_stat = image.keep_stat;
        status = tm_pyimage_write(source, &extras, fd);
    }
    tm_image_done(&image);
    tm_model_done(&model);
    if (status == 0)
        return tm_pyimage_adopt_fd(fd);
    if (fd >= 0)
        close(fd);
    if (status != -EILSEQ)
        tm_pyf.PyErr_NoMemory();
    return NULL;
}

PyObj *tm_filter_py_apply(PyObj *self, PyObj *args)
{
    PyObj *capsule, *list;
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "OO", &capsule, &list))
        return NULL;
    struct tm_pyimage *source = tm_pyimage_get(capsule), *sifted = NULL;
    PySize n = source ? tm_pyf.PyList_Size(list) : -1, made = 0;
    struct tm_filter *filters = n >= 0 ? calloc((size_t)n + 1, sizeof(*filters)) : NULL;
    if (filters == NULL)
        return n >= 0 ? tm_pyf.PyErr_NoMemory() : NULL;
    while (made < n && read_filter(tm_pyf.PyList_GetItem(list, made), &filters[made]))
        made++;
    if (made == n)
        sifted = sift(source, filters, (size_t)n);
    while (made > 0)
        tm_filter_done(&filters[--made]);
    free(filters);
    return tm_pyimage_wrap(sifted);
}
