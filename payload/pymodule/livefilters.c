// SPDX-License-Identifier: MIT
#include "payload/pymodule/livefilters.h"

static PyObj *list; /* of tuples; NULL: none yet */

PyObj *tm_livefilters_py_add(PyObj *self, PyObj *filter)
{
    (void)self;
    if (list == NULL && (list = tm_pyf.PyList_New(0)) == NULL)
        return NULL;
    return tm_pyf.PyList_Append(list, filter) < 0 ? NULL : tm_py_none();
}

void tm_livefilters_clear(void)
{
    tm_py_decref(list);
    list = NULL;
}

PyObj *tm_livefilters_py_clear(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    tm_livefilters_clear();
    return tm_py_none();
}

PyObj *tm_livefilters_py_get(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    PyObj *copy = tm_pyf.PyList_New(0);
    for (PySize i = 0; copy && list && i < tm_pyf.PyList_Size(list); i++)
        tm_pyf.PyList_Append(copy, tm_pyf.PyList_GetItem(list, i));
    return copy;
}
