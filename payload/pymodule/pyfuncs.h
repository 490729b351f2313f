// SPDX-License-Identifier: MIT
/*
 * The part of CPython's C API that the Python module needs beyond
 * payload/pyapi.h, found at run time as well: prototypes are those of the C API
 * documentation, Py_ssize_t is long. All of these names are exported by CPython
 * 3.3 to 3.14, unless marked optional; pyfuncs27.h has what serves for them in 2.7.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "payload/pyapi.h"

typedef tm_py_object PyObj;
typedef long PySize;
typedef PyObj *tm_py_cfunction(PyObj *self, PyObj *args);

/* Mirrors of PyMethodDef and PyModuleDef (Include/methodobject.h, Include/moduleobject.h); the
 * same in all versions with the GIL; a free-threaded build has more in front of the second. */
struct tm_py_method {
    const char *name;
    tm_py_cfunction *meth;
    int flags;
    const char *doc;
};
enum { TM_PY_METH_VARARGS = 1, TM_PY_METH_NOARGS = 4, TM_PY_METH_O = 8 };

struct tm_py_module_def {
    PySize ob_refcnt;
    void *ob_type;
    PyObj *(*m_init)(void);
    PySize m_index;
    PyObj *m_copy;
    const char *m_name;
    const char *m_doc;
    PySize m_size;
    struct tm_py_method *m_methods;
    void *m_slots, *m_traverse, *m_clear, *m_free;
};
#define TM_PY_API_VERSION 1013

/* X(return type, name, parameters) */
#define TM_PY_FUNCTIONS(X)                                                                         \
    X(PyObj *, PyModule_Create2, (struct tm_py_module_def *, int))                                 \
    X(PyObj *, PyModule_GetDict, (PyObj *))                                                        \
    X(int, PyArg_ParseTuple, (PyObj *, const char *, ...))                                         \
    X(PyObj *, PyTuple_New, (PySize))                                                              \
    X(int, PyTuple_SetItem, (PyObj *, PySize, PyObj *))                                            \
    X(PyObj *, PyTuple_GetItem, (PyObj *, PySize))                                                 \
    X(PySize, PyTuple_Size, (PyObj *))                                                             \
    X(PyObj *, PyList_New, (PySize))                                                               \
    X(int, PyList_SetItem, (PyObj *, PySize, PyObj *))                                             \
    X(PyObj *, PyList_GetItem, (PyObj *, PySize))                                                  \
    X(PySize, PyList_Size, (PyObj *))                                                              \
    X(int, PyList_Append, (PyObj *, PyObj *))                                                      \
    X(int, PyList_Insert, (PyObj *, PySize, PyObj *))                                              \
    X(PyObj *, PyDict_New, (void))                                                                 \
    X(PySize, PyDict_Size, (PyObj *))                                                              \
    X(int, PyDict_SetItem, (PyObj *, PyObj *, PyObj *))                                            \
    X(PyObj *, PyDict_GetItem, (PyObj *, PyObj *))                                                 \
    X(int, PyDict_SetItemString, (PyObj *, const char *, PyObj *))                                 \
    X(PyObj *, PyDict_GetItemString, (PyObj *, const char *))                                      \
    X(int, PyDict_DelItemString, (PyObj *, const char *))                                          \
    X(void, PyDict_Clear, (PyObj *))                                                               \
    X(PyObj *, PyLong_FromLongLong, (long long))                                                   \
    X(PyObj *, PyLong_FromUnsignedLongLong, (unsigned long long))                                  \
    X(long long, PyLong_AsLongLong, (PyObj *))                                                     \
    X(unsigned long long, PyLong_AsUnsignedLongLong, (PyObj *))                                    \
    X(PyObj *, PyFloat_FromDouble, (double))                                                       \
    X(double, PyFloat_AsDouble, (PyObj *))                                                         \
    X(PyObj *, PyBool_FromLong, (long))                                                            \
    X(PyObj *, PyUnicode_DecodeUTF8, (const char *, PySize, const char *))                         \
    X(PyObj *, PyUnicode_AsEncodedString, (PyObj *, const char *, const char *))                   \
    X(PyObj *, PyUnicode_InternFromString, (const char *))                                         \
    X(PyObj *, PyUnicode_EncodeFSDefault, (PyObj *))                                               \
    X(char *, PyBytes_AsString, (PyObj *))                                                         \
    X(PySize, PyBytes_Size, (PyObj *))                                                             \
    X(PyObj *, PyBytes_FromStringAndSize, (const char *, PySize))                                  \
    X(int, PyObject_IsInstance, (PyObj *, PyObj *))                                                \
    X(int, PyObject_IsTrue, (PyObj *))                                                             \
    X(PyObj *, PyObject_CallMethod, (PyObj *, const char *, const char *, ...))                    \
    X(PyObj *, PyObject_CallObject, (PyObj *, PyObj *))                                            \
    X(PyObj *, PyObject_CallFunction, (PyObj *, const char *, ...))                                \
    X(int, PyObject_SetAttrString, (PyObj *, const char *, PyObj *))                               \
    X(void, PyErr_SetString, (PyObj *, const char *))                                              \
    X(PyObj *, PyErr_Format, (PyObj *, const char *, ...))                                         \
    X(PyObj *, PyErr_NoMemory, (void))                                                             \
    X(int, PyErr_ExceptionMatches, (PyObj *))                                                      \
    X(void, PyErr_WriteUnraisable, (PyObj *))                                                      \
    X(void, PyErr_Fetch, (PyObj **, PyObj **, PyObj **))                                           \
    X(void, PyErr_Restore, (PyObj *, PyObj *, PyObj *))                                            \
    X(PyObj *, PyErr_SetFromErrnoWithFilenameObject, (PyObj *, PyObj *))                           \
    X(PyObj *, PyCapsule_New, (void *, const char *, void (*)(PyObj *)))                           \
    X(void *, PyCapsule_GetPointer, (PyObj *, const char *))                                       \
    X(int, PyCapsule_IsValid, (PyObj *, const char *))                                             \
    X(tm_py_tstate *, PyEval_SaveThread, (void))                                                   \
    X(void, PyEval_RestoreThread, (tm_py_tstate *))                                                \
    X(PyObj *, PyImport_GetModuleDict, (void))                                                     \
    X(PyObj *, PyImport_AddModule, (const char *))                                                 \
    X(PyObj *, PyImport_ImportModule, (const char *))                                              \
    X(PyObj *, PySys_GetObject, (const char *))                                                    \
    X(PyObj *, Py_CompileString, (const char *, const char *, int))                                \
    X(PyObj *, PyEval_EvalCode, (PyObj *, PyObj *, PyObj *))

struct tm_pyfuncs {
#define X(type, name, parameters) type(*name) parameters;
    TM_PY_FUNCTIONS(X)
#undef X
    PyObj *dict_type, *tuple_type, *list_type, *str_type, *int_type, *true_object;
    /* The exceptions that we raise; borrowed, they live as long as Python. */
    PyObj *type_error, *value_error, *runtime_error, *os_error, *memory_error, *import_error,
        *not_implemented_error;
};

/* Filled by tm_pyfuncs_load; read-only afterwards. */
extern struct tm_pyfuncs tm_pyf;

/* After tm_pyapi_load. False with a one-line message where one is missing. Idempotent. */
bool tm_pyfuncs_load(char *message, size_t message_bytes);

static inline PyObj *tm_py_incref(PyObj *object)
{
    tm_py.Py_IncRef(object);
    return object;
}
/* Accepts NULL. */
static inline void tm_py_decref(PyObj *object)
{
    if (object != NULL)
        tm_py.Py_DecRef(object);
}
static inline PyObj *tm_py_none(void)
{
    return tm_py_incref(tm_py.none);
}
/* Words before PyObject.ob_type: the reference count; in a free-threaded build the thread, a word
 * of flags and the local count, the shared count (Include/object.h of 3.13). */
static inline size_t tm_py_head_words(void)
{
    return tm_py.free_threaded ? 3 : 1;
}
/* PyObject.ob_type, borrowed. */
static inline PyObj *tm_py_type(PyObj *object)
{
    return ((PyObj **)object)[tm_py_head_words()];
}
static inline PyObj *tm_py_raise(PyObj *exception, const char *message)
{
    tm_pyf.PyErr_SetString(exception, message);
    return NULL;
}

/* A file's name, borrowed from the bytes. NULL with ValueError: it would be cut off at a null byte.
 */
static inline const char *tm_py_file_name(PyObj *bytes)
{
    const char *name = tm_pyf.PyBytes_AsString(bytes);
    if (strlen(name) == (size_t)tm_pyf.PyBytes_Size(bytes))
        return name;
    tm_py_raise(tm_pyf.value_error, "embedded null byte");
    return NULL;
}
