// SPDX-License-Identifier: MIT
#include "payload/pymodule/group.h"

#include <stdlib.h>

#include "analyzer/core/compare.h"
#include "analyzer/core/grouping.h"
#include "payload/pymodule/image.h"

#define GROUPS "_pytracemalloc.groups"
#define CHANGES "_pytracemalloc.differences"

struct pygroups {
    struct tm_pyimage *source; /* a reference */
    struct tm_model model;
    struct tm_image image;
    struct tm_groups groups;
};

/* Two snapshots under one model. */
struct pychanges {
    struct tm_pyimage *new_source, *old_source; /* references; old may be NULL */
    struct tm_model model;
    struct tm_image new_image, old_image;
    struct tm_diff diff;
    enum tm_group_by by;
};

static void groups_free(struct pygroups *g)
{
    tm_groups_done(&g->groups);
    tm_image_done(&g->image);
    tm_model_done(&g->model);
    tm_pyimage_unref(g->source);
    free(g);
}

static void groups_gone(PyObj *capsule)
{
    groups_free(tm_pyf.PyCapsule_GetPointer(capsule, GROUPS));
    tm_pycapsules--;
}

static void changes_free(struct pychanges *c)
{
    tm_diff_done(&c->diff);
    tm_image_done(&c->new_image);
    tm_image_done(&c->old_image);
    tm_model_done(&c->model);
    tm_pyimage_unref(c->new_source);
    tm_pyimage_unref(c->old_source);
    free(c);
}

static void changes_gone(PyObj *capsule)
{
    changes_free(tm_pyf.PyCapsule_GetPointer(capsule, CHANGES));
    tm_pycapsules--;
}

static PyObj *raise_core(const struct tms_error *error)
{
    if (error->code == TMS_E_OK || error->code == TMS_E_MEMORY)
        return tm_pyf.PyErr_NoMemory();
    return tm_py_raise(tm_pyf.value_error, error->message);
}

/* The capsule that Python holds; NULL with an exception, and nothing was taken over. */
static PyObj *wrap(void *object, const char *name, void (*gone)(PyObj *))
{
    PyObj *capsule = tm_pyf.PyCapsule_New(object, name, gone);
    tm_pycapsules += capsule != NULL;
    return capsule;
}

static bool make(struct tm_model *model, struct tm_image *image, const struct tms_file *file,
                 enum tm_group_by by, unsigned flags, struct tm_groups *ret,
                 struct tms_error *error)
{
    return tm_image_init(image, model, file) && tm_groups_make(image, by, flags, ret, error);
}

PyObj *tm_group_py_make(PyObj *self, PyObj *args)
{
    PyObj *capsule;
    int by, cumulative;
    struct tms_error error = {0};
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "Oii", &capsule, &by, &cumulative))
        return NULL;
    struct tm_pyimage *source = tm_pyimage_get(capsule);
    struct pygroups *g = source ? calloc(1, sizeof(*g)) : NULL;
    if (g == NULL)
        return source ? tm_pyf.PyErr_NoMemory() : NULL;
    g->source = source;
    tm_pyimage_ref(source);
    tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
    bool ok = tm_model_init(&g->model) &&
              make(&g->model, &g->image, &source->file, (enum tm_group_by)by,
                   cumulative ? TM_GROUP_CUMULATIVE : TM_GROUP_DEFAULT, &g->groups, &error);
    tm_pyf.PyEval_RestoreThread(tstate);
    PyObj *result = ok ? wrap(g, GROUPS, groups_gone) : raise_core(&error);
    if (result == NULL)
        groups_free(g);
    return result;
}

/* ---- keys ---- */

static PyObj *key_text(struct tms_str text, bool none_as_empty)
{
    if (text.n_bytes == 0)
        return none_as_empty ? tm_py_text("", 0) : tm_py_none();
    return tm_py_text(text.bytes, text.n_bytes);
}

/* A group's key: None where unknown; in differences '' and 0 instead, which can be sorted. */
static PyObj *make_key(const struct tm_model *model, enum tm_group_by by, uint64_t id,
                       bool none_as_empty)
{
    if (by == TM_BY_ADDRESS)
        return tm_pyf.PyLong_FromUnsignedLongLong(id);
    struct tm_group_label label = tm_group_describe(model, by, id);
    PyObj *file = key_text(label.file, none_as_empty);
    if (by == TM_BY_FILE)
        return file;
    PyObj *line =
        label.line < 1 && !none_as_empty ? tm_py_none() : tm_pyf.PyLong_FromLongLong(label.line);
    return tm_py_tuple2(file, line);
}

PyObj *tm_group_py_stats(PyObj *self, PyObj *capsule)
{
    (void)self;
    struct pygroups *g = tm_pyf.PyCapsule_GetPointer(capsule, GROUPS);
    PyObj *stats = g ? tm_pyf.PyDict_New() : NULL;
    for (size_t i = 0; stats != NULL && i < g->groups.n_items; i++) {
        const struct tm_group *group = &g->groups.items[i];
        PyObj *key = make_key(&g->model, g->groups.by, group->id, false);
        PyObj *value = tm_py_pair(group->bytes, group->count);
        if (key == NULL || value == NULL || tm_pyf.PyDict_SetItem(stats, key, value) < 0) {
            tm_py_decref(stats);
            stats = NULL;
        }
        tm_py_decref(key);
        tm_py_decref(value);
    }
    return stats;
}

/* ---- differences ---- */

static bool compare(struct pychanges *c, unsigned flags, struct tms_error *error)
{
    struct tm_groups old = {0}, new = {0};
    bool ok = tm_model_init(&c->model) &&
              make(&c->model, &c->new_image, &c->new_source->file, c->by, flags, &new, error) &&
              (c->old_source == NULL ||
               make(&c->model, &c->old_image, &c->old_source->file, c->by, flags, &old, error)) &&
              tm_diff_make(&c->model, c->old_source ? &old : NULL, &new, SIZE_MAX, &c->diff);
    tm_groups_done(&old);
    tm_groups_done(&new);
    return ok;
}

PyObj *tm_group_py_compare(PyObj *self, PyObj *args)
{
    PyObj *new_capsule, *old_capsule;
    struct tms_error error = {0};
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "OO", &new_capsule, &old_capsule))
        return NULL;
    struct pygroups *new = tm_pyf.PyCapsule_GetPointer(new_capsule, GROUPS), *old = NULL;
    if (new == NULL || (old_capsule != tm_py.none &&
                        (old = tm_pyf.PyCapsule_GetPointer(old_capsule, GROUPS)) == NULL))
        return NULL;
    struct pychanges *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return tm_pyf.PyErr_NoMemory();
    c->by = new->groups.by;
    c->new_source = new->source;
    tm_pyimage_ref(new->source);
    if (old != NULL) {
        c->old_source = old->source;
        tm_pyimage_ref(old->source);
    }
    unsigned flags = new->groups.cumulative ? TM_GROUP_CUMULATIVE : TM_GROUP_DEFAULT;
    tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
    bool ok = compare(c, flags, &error);
    tm_pyf.PyEval_RestoreThread(tstate);
    PyObj *result = ok ? wrap(c, CHANGES, changes_gone) : raise_core(&error);
    if (result == NULL)
        changes_free(c);
    return result;
}

/* (size_diff, size, count_diff, count, key); takes `key` over. */
static PyObj *make_row(const struct tm_change *change, PyObj *key)
{
    PyObj *row = key ? tm_pyf.PyTuple_New(5) : NULL;
    const long long numbers[] = {change->size_diff, (long long)change->size, change->count_diff,
                                 (long long)change->count};
    if (row == NULL) {
        tm_py_decref(key);
        return NULL;
    }
    tm_pyf.PyTuple_SetItem(row, 4, key);
    for (int i = 0; i < 4; i++) {
        PyObj *number = tm_pyf.PyLong_FromLongLong(numbers[i]);
        if (number == NULL) {
            tm_py_decref(row);
            return NULL;
        }
        tm_pyf.PyTuple_SetItem(row, i, number);
    }
    return row;
}

PyObj *tm_group_py_rows(PyObj *self, PyObj *args)
{
    PyObj *capsule;
    long long limit;
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "OL", &capsule, &limit))
        return NULL;
    struct pychanges *c = tm_pyf.PyCapsule_GetPointer(capsule, CHANGES);
    PyObj *list = c ? tm_pyf.PyList_New(0) : NULL;
    for (size_t i = 0; list != NULL && i < c->diff.n_rows; i++) {
        if (limit >= 0 && i >= (size_t)limit)
            break;
        PyObj *row =
            make_row(&c->diff.rows[i], make_key(&c->model, c->by, c->diff.rows[i].id, true));
        if (row == NULL || tm_pyf.PyList_Append(list, row) < 0) {
            tm_py_decref(list);
            list = NULL;
        }
        tm_py_decref(row);
    }
    return list;
}

PyObj *tm_group_py_sums(PyObj *self, PyObj *args)
{
    PyObj *capsule;
    long long limit;
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "OL", &capsule, &limit))
        return NULL;
    struct pychanges *c = tm_pyf.PyCapsule_GetPointer(capsule, CHANGES);
    if (c == NULL)
        return NULL;
    struct tm_change rest = c->diff.total;
    for (size_t i = 0; i < c->diff.n_rows && (limit < 0 || i < (size_t)limit); i++) {
        rest.size_diff -= c->diff.rows[i].size_diff;
        rest.size -= c->diff.rows[i].size;
        rest.count_diff -= c->diff.rows[i].count_diff;
        rest.count -= c->diff.rows[i].count;
    }
    return tm_py_tuple2(
        tm_pyf.PyLong_FromUnsignedLongLong(c->diff.n_groups),
        tm_py_tuple2(make_row(&c->diff.total, tm_py_none()), make_row(&rest, tm_py_none())));
}
