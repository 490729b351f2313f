// SPDX-License-Identifier: MIT
#include "payload/pymodule/session.h"

#include <stdio.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "payload/pymodule/embed.h"
#include "payload/pymodule/image.h"
#include "payload/pymodule/module.h"
#include "payload/pymodule/tasks.h"

enum { PY_FILE_INPUT = 257 }; /* Include/compile.h */

/* What was seen of an object of ours when the program could not have had it yet. */
struct baseline {
    PyObj *object; /* a reference, counted in `refs` */
    PySize refs;
};

static PyObj *core;      /* a reference to the C module while the session lasts */
static PyObj *layer;     /* a reference to the module `pytracemalloc`, once it is imported */
static PyObj *borrowers; /* a list: what modules that use our C module want called at the end */
static struct baseline *baselines;
static size_t n_baselines;

static PySize refcount(PyObj *object)
{
    /* 32 bits suffice, and from 3.14 on the upper half holds flags. */
    return *(const uint32_t *)object;
}

static PyObj *meta_path(void)
{
    return tm_pyf.PySys_GetObject("meta_path"); /* borrowed */
}

bool tm_session_begin(void)
{
    char message[160];
    if (core != NULL || tm_module_imported)
        return true;
    /* The module's functions count on a GIL. Importing it turns the GIL on; this would not. */
    if (tm_py.free_threaded)
        return false;
    if (!tm_pyfuncs_load(message, sizeof(message)))
        return false;
    core = tm_module_new();
    PyObj *path = meta_path();
    /* Last: the program's own imports do not pass us, and a module of its own by our name wins. */
    if (core != NULL && path != NULL && tm_pyf.PyList_Insert(path, LONG_MAX, core) == 0)
        return true;
    tm_py.PyErr_Clear();
    tm_py_decref(core);
    core = NULL;
    return false;
}

/* ---- finder and loader ---- */

static bool is_ours(const char *name)
{
    return strcmp(name, "pytracemalloc") == 0 || strcmp(name, "_pytracemalloc") == 0;
}

PyObj *tm_session_py_find_spec(PyObj *self, PyObj *args)
{
    const char *name;
    PyObj *path = NULL, *target = NULL;
    if (!tm_pyf.PyArg_ParseTuple(args, "s|OO", &name, &path, &target))
        return NULL;
    if (!is_ours(name) || core == NULL)
        return tm_py_none();
    PyObj *importlib = tm_pyf.PyImport_ImportModule("_frozen_importlib");
    PyObj *type = importlib ? tm_py.PyObject_GetAttrString(importlib, "ModuleSpec") : NULL;
    PyObj *spec = type ? tm_pyf.PyObject_CallFunction(type, "sO", name, self) : NULL;
    tm_py_decref(type);
    tm_py_decref(importlib);
    return spec;
}

/* The C module is there already; the other is made by Python. */
PyObj *tm_session_py_create_module(PyObj *self, PyObj *spec)
{
    PyObj *name = tm_py.PyObject_GetAttrString(spec, "name");
    PyObj *bytes = name ? tm_pyf.PyUnicode_AsEncodedString(name, "utf-8", "replace") : NULL;
    bool is_core = bytes != NULL && strcmp(tm_pyf.PyBytes_AsString(bytes), "_pytracemalloc") == 0;
    tm_py_decref(name);
    tm_py_decref(bytes);
    if (bytes == NULL)
        return NULL;
    return tm_py_incref(is_core ? self : tm_py.none);
}

static void remember(PyObj *object)
{
    struct baseline *grown = realloc(baselines, (n_baselines + 1) * sizeof(*grown));
    if (grown == NULL)
        return; /* fewer objects are watched; the C functions are looked at in any case */
    baselines = grown;
    baselines[n_baselines++] = (struct baseline){tm_py_incref(object), 0};
}

/* Everything in a namespace that the program could take out of it. */
static void remember_values(PyObj *dict, bool with_classes)
{
    PyObj *key, *value;
    for (long at = 0; tm_py.PyDict_Next(dict, &at, &key, &value);) {
        PyObj *module = tm_py.PyObject_GetAttrString(value, "__module__");
        bool ours = module != NULL && tm_pyf.PyObject_IsInstance(module, tm_pyf.str_type) == 1;
        PyObj *bytes = ours ? tm_pyf.PyUnicode_AsEncodedString(module, "utf-8", "replace") : NULL;
        ours = bytes != NULL && is_ours(tm_pyf.PyBytes_AsString(bytes));
        tm_py_decref(bytes);
        tm_py_decref(module);
        tm_py.PyErr_Clear();
        if (!ours)
            continue;
        remember(value);
        PyObj *inner = with_classes ? tm_py.PyObject_GetAttrString(value, "__dict__") : NULL;
        PyObj *copy = inner ? tm_pyf.PyObject_CallFunction(tm_pyf.dict_type, "O", inner) : NULL;
        tm_py.PyErr_Clear();
        if (copy != NULL)
            remember_values(copy, false);
        tm_py_decref(copy);
        tm_py_decref(inner);
    }
}

static void take_baseline(PyObj *module)
{
    PyObj *dict = tm_pyf.PyModule_GetDict(module);
    remember(dict);
    remember_values(dict, true);
    for (size_t i = 0; i < n_baselines; i++)
        baselines[i].refs = refcount(baselines[i].object);
}

static bool is_at_baseline(void)
{
    for (size_t i = 0; i < n_baselines; i++)
        if (refcount(baselines[i].object) != baselines[i].refs)
            return false;
    return true;
}

PyObj *tm_session_py_exec_module(PyObj *self, PyObj *module)
{
    if (module == self)
        return tm_py_none();
    PyObj *dict = tm_pyf.PyModule_GetDict(module);
    PyObj *file = tm_py_text(TM_EMBED_FILE, strlen(TM_EMBED_FILE));
    PyObj *code = NULL, *result = NULL;
    /* What exec() would add by itself, and PyEval_EvalCode does not on every version. */
    PyObj *builtins =
        tm_pyf.PyImport_ImportModule(tm_py.version_hex < 0x03000000 ? "__builtin__" : "builtins");
    if (file != NULL && builtins != NULL &&
        tm_pyf.PyDict_SetItemString(dict, "__builtins__", builtins) == 0 &&
        tm_pyf.PyDict_SetItemString(dict, "__file__", file) == 0 &&
        tm_pyf.PyDict_SetItemString(dict, "_core", self) == 0)
        code = tm_pyf.Py_CompileString(tm_embed_source, TM_EMBED_FILE, PY_FILE_INPUT);
    if (code != NULL)
        result = tm_pyf.PyEval_EvalCode(code, dict, dict);
    tm_py_decref(file);
    tm_py_decref(builtins);
    tm_py_decref(code);
    if (result != NULL && layer == NULL) {
        layer = tm_py_incref(module);
        take_baseline(module);
    }
    return result;
}

PyObj *tm_session_py_get_source(PyObj *self, PyObj *name)
{
    (void)self;
    (void)name;
    return tm_py_text(tm_embed_source, strlen(tm_embed_source));
}

/* ---- the same before 3.4: find_module and load_module ---- */

/* 2.7 asks sys.meta_path before it looks into folders (Python/import.c, find_module). */
static bool program_has_its_own(const char *name)
{
    if (tm_py.version_hex >= 0x03000000)
        return false;
    PyObj *imp = tm_pyf.PyImport_ImportModule("imp");
    PyObj *found = imp ? tm_pyf.PyObject_CallMethod(imp, "find_module", "s", name) : NULL;
    PyObj *file = found ? tm_pyf.PyTuple_GetItem(found, 0) : NULL;
    if (file != NULL && file != tm_py.none)
        tm_py_decref(tm_pyf.PyObject_CallMethod(file, "close", NULL));
    tm_py.PyErr_Clear();
    tm_py_decref(found);
    tm_py_decref(imp);
    return found != NULL;
}

PyObj *tm_session_py_find_module(PyObj *self, PyObj *args)
{
    const char *name;
    PyObj *path = NULL;
    if (!tm_pyf.PyArg_ParseTuple(args, "s|O", &name, &path))
        return NULL;
    bool found = is_ours(name) && core != NULL && !program_has_its_own(name);
    return tm_py_incref(found ? self : tm_py.none);
}

static void remove_module(const char *name, PyObj *module)
{
    PyObj *modules = tm_pyf.PyImport_GetModuleDict();
    if (module != NULL && tm_pyf.PyDict_GetItemString(modules, name) == module)
        tm_pyf.PyDict_DelItemString(modules, name);
    tm_py.PyErr_Clear();
}

PyObj *tm_session_py_load_module(PyObj *self, PyObj *args)
{
    const char *name;
    if (!tm_pyf.PyArg_ParseTuple(args, "s", &name))
        return NULL;
    PyObj *modules = tm_pyf.PyImport_GetModuleDict();
    PyObj *module = tm_pyf.PyDict_GetItemString(modules, name); /* a reload */
    if (module == NULL) {
        module = strcmp(name, "_pytracemalloc") == 0 ? self : tm_pyf.PyImport_AddModule(name);
        if (module == NULL || tm_pyf.PyDict_SetItemString(modules, name, module) < 0 ||
            tm_pyf.PyObject_SetAttrString(module, "__loader__", self) < 0)
            return NULL;
    }
    tm_py_incref(module);
    PyObj *done = tm_session_py_exec_module(self, module);
    if (done != NULL) {
        tm_py_decref(done);
        return module;
    }
    PyObj *type, *value, *traceback;
    tm_pyf.PyErr_Fetch(&type, &value, &traceback);
    remove_module(name, module);
    tm_pyf.PyErr_Restore(type, value, traceback);
    tm_py_decref(module);
    return NULL;
}

/* What `python -m` and runpy ask for: it would put tm-analyze in the place of the process. */
PyObj *tm_session_py_get_code(PyObj *self, PyObj *name)
{
    (void)self;
    (void)name;
    return tm_py_raise(tm_pyf.import_error,
                       "an attached process does not run pytracemalloc: run tm-analyze instead");
}

PyObj *tm_session_py_is_package(PyObj *self, PyObj *name)
{
    (void)self;
    (void)name;
    return tm_pyf.PyBool_FromLong(0);
}

/* ---- the end ---- */

static void remove_finder(void)
{
    PyObj *path = meta_path();
    PySize n = path ? tm_pyf.PyList_Size(path) : 0;
    for (PySize i = n - 1; i >= 0; i--) {
        if (tm_pyf.PyList_GetItem(path, i) != core)
            continue;
        tm_py_decref(tm_pyf.PyObject_CallMethod(path, "pop", "l", (long)i));
        tm_py.PyErr_Clear();
    }
}

/* A pytracemalloc.py of the program's own folders, imported while we are attached, uses our C
 * module and lets it go now. */
PyObj *tm_session_py_at_end(PyObj *self, PyObj *callable)
{
    if (self == core && borrowers == NULL)
        borrowers = tm_pyf.PyList_New(0);
    if (self == core && (borrowers == NULL || tm_pyf.PyList_Append(borrowers, callable) < 0))
        return NULL;
    return tm_py_none();
}

static void tell_borrowers(void)
{
    for (PySize i = 0; borrowers != NULL && i < tm_pyf.PyList_Size(borrowers); i++)
        tm_py_decref(tm_pyf.PyObject_CallObject(tm_pyf.PyList_GetItem(borrowers, i), NULL));
    tm_py.PyErr_Clear();
    tm_py_decref(borrowers);
    borrowers = NULL;
}

/* The Python half goes if nobody outside holds anything of it. */
static bool drop_layer(void)
{
    if (layer == NULL)
        return true;
    PyObj *hook = tm_pyf.PyDict_GetItemString(tm_pyf.PyModule_GetDict(layer), "_session_end");
    tm_py_decref(hook ? tm_pyf.PyObject_CallObject(hook, NULL) : NULL);
    tm_py.PyErr_Clear();
    remove_module("pytracemalloc", layer);
    /* Ours, and what is left of the import's own: the module is in no dictionary any more, save
     * before 3.4 its own (python/parts/session.py, _module). */
    PySize expected = tm_py.version_hex < 0x03040000 ? 2 : 1;
    bool alone = is_at_baseline() && refcount(layer) == expected;
    for (size_t i = 0; i < n_baselines; i++)
        tm_py_decref(baselines[i].object);
    free(baselines);
    baselines = NULL;
    n_baselines = 0;
    if (alone)
        tm_pyf.PyDict_Clear(tm_pyf.PyModule_GetDict(layer));
    tm_py_decref(layer);
    layer = NULL;
    return alone;
}

/* The C module and its functions hold each other; with one reference of ours, that is all. */
static bool drop_core(void)
{
    PyObj *key, *value, *dict = tm_pyf.PyModule_GetDict(core);
    PySize expected = 1;
    bool alone = true;
    remove_module("_pytracemalloc", core);
    tm_pyf.PyDict_DelItemString(dict, "__spec__"); /* holds its loader: the module itself */
    tm_py.PyErr_Clear();
    tm_pyf.PyDict_DelItemString(dict, "__loader__");
    tm_py.PyErr_Clear();
    for (long at = 0; tm_py.PyDict_Next(dict, &at, &key, &value);) {
        PyObj *owner = tm_py.PyObject_GetAttrString(value, "__self__");
        tm_py.PyErr_Clear();
        if (owner == core) {
            expected++;
            alone &= refcount(value) == 1;
        }
        tm_py_decref(owner);
    }
    alone &= refcount(core) == expected && tm_pycapsules == 0;
    if (alone)
        tm_pyf.PyDict_Clear(dict);
    tm_py_decref(core);
    core = NULL;
    return alone;
}

bool tm_session_end(void)
{
    if (tm_module_imported) {
        tm_tasks_cancel_all();
        return false;
    }
    if (core == NULL)
        return !tm_module_detached;
    PyObj *type, *value, *traceback;
    tm_pyf.PyErr_Fetch(&type, &value, &traceback);
    tm_module_detached = true;
    remove_finder();
    bool quiet = tm_tasks_stop();
    tell_borrowers();
    bool layer_gone = drop_layer();
    bool core_gone = drop_core();
    tm_pyf.PyErr_Restore(type, value, traceback);
    return quiet && layer_gone && core_gone;
}
