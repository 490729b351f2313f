// SPDX-License-Identifier: MIT
#include "payload/pymodule/module.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "payload/code.h"
#include "payload/frames.h"
#include "payload/pymodule/build.h"
#include "payload/pymodule/filters.h"
#include "payload/pymodule/group.h"
#include "payload/pymodule/image.h"
#include "payload/pymodule/interned.h"
#include "payload/pymodule/live.h"
#include "payload/pymodule/livefilters.h"
#include "payload/pymodule/metrics.h"
#include "payload/pymodule/save.h"
#include "payload/pymodule/session.h"
#include "payload/pymodule/tasks.h"
#include "payload/redirect.h"
#include "payload/tracer.h"

bool tm_module_imported;
bool tm_module_detached;

/* A snapshot of the last session may still be written; its writer needs the GIL to come to its
 * end. */
enum { ENABLE_TRIES = 5000 };

static void pause_without_gil(unsigned ms)
{
    tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
    usleep(ms * 1000);
    tm_pyf.PyEval_RestoreThread(tstate);
}

static void begin_change(void)
{
    unsigned pause_ms;
    for (unsigned attempt = 0; (pause_ms = tm_tracer_change_begin(attempt)) != 0; attempt++)
        pause_without_gil(pause_ms);
}

static PyObj *py_enable(PyObj *self, PyObj *unused)
{
    struct tm_tracer_options options = {.traceback_limit = tm_tracer_traceback_limit(),
                                        .native_depth = tm_tracer_native_depth()};
    char message[256] = "";
    int status = 0;
    (void)self;
    (void)unused;
    tm_tasks_sync();
    if (tm_tracer_is_enabled())
        return tm_py_none();
    if (tm_module_detached)
        return tm_py_raise(tm_pyf.runtime_error, "tm is detached from this process");
    for (int i = 0; i < ENABLE_TRIES; i++) {
        begin_change();
        status = tm_tracer_enable(&options, message, sizeof(message));
        tm_tracer_change_end();
        if (status != -EBUSY)
            break;
        pause_without_gil(1);
    }
    return status == 0 ? tm_py_none() : tm_py_raise(tm_pyf.runtime_error, message);
}

static PyObj *py_disable(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    tm_tasks_sync();
    tm_tasks_cancel_all();
    if (!tm_tracer_is_enabled())
        return tm_py_none();
    begin_change();
    if (tm_tracer_is_enabled())
        tm_tracer_disable();
    tm_tracer_change_end();
    return tm_py_none();
}

static PyObj *py_is_enabled(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    return tm_pyf.PyBool_FromLong(tm_tracer_is_enabled());
}

static PyObj *py_get_limit(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    return tm_pyf.PyLong_FromLongLong(tm_tracer_traceback_limit());
}

static PyObj *py_set_limit(PyObj *self, PyObj *limit)
{
    long long frames = tm_pyf.PyLong_AsLongLong(limit);
    (void)self;
    if (frames == -1 && tm_py.PyErr_Occurred() &&
        !tm_pyf.PyErr_ExceptionMatches(tm_pyf.type_error)) {
        tm_py.PyErr_Clear(); /* too large for a C number */
    } else if (tm_py.PyErr_Occurred()) {
        return NULL;
    }
    if (frames < 0 || frames > TM_TRACEBACK_LIMIT_MAX)
        return tm_pyf.PyErr_Format(tm_pyf.value_error,
                                   "the number of frames must be in range [0; %d]",
                                   (int)TM_TRACEBACK_LIMIT_MAX);
    tm_tracer_set_limit((uint32_t)frames);
    return tm_py_none();
}

#define NOT_MAIN "pytracemalloc works in the main interpreter only"

static bool is_main_interpreter(void)
{
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    return tstate != 0 && tm_frames_load(tstate + (uint32_t)tm_layout.tstate_interp) ==
                              (uint64_t)tm_py_main_interpreter();
}

#define NO_GIL "pytracemalloc needs the GIL, which PYTHON_GIL=0 or -X gil=0 keeps off"

/* A free-threaded Python switches it on for a module that does not say that it can do without,
 * unless it was told not to (Python/import.c of 3.13). */
static bool has_gil(void)
{
    PyObj *sys = tm_py.free_threaded ? tm_pyf.PyImport_ImportModule("sys") : NULL;
    PyObj *enabled = sys ? tm_pyf.PyObject_CallMethod(sys, "_is_gil_enabled", NULL) : NULL;
    bool has = !tm_py.free_threaded || (enabled != NULL && tm_pyf.PyObject_IsTrue(enabled) == 1);
    tm_py_decref(enabled);
    tm_py_decref(sys);
    tm_py.PyErr_Clear();
    return has;
}

static struct definition {
    /* What an object of a free-threaded build begins with: ob_tid; ob_mutex, ob_gc_bits and
     * ob_ref_local, whose highest value stands for "immortal" (Include/object.h of 3.13). */
    uint64_t ob_tid, ob_ref_local;
    struct tm_py_module_def with_gil;
} definition;

/* Frames of this file are our own code: what it allocates is not traced. */
static PyObj *py_add_own_file(PyObj *self, PyObj *name)
{
    (void)self;
    /* 3.5 would call PyInit in another interpreter, ignore that it fails, and trip over the error
     * (Python/import.c, _imp_create_dynamic_impl). Without m_init it asks as the first time. */
    if (tm_py.version_hex >> 16 == 0x0305)
        definition.with_gil.m_init = NULL;
    /* 2.7 gives another interpreter a copy of our dictionary and does not ask (Python/import.c,
     * _PyImport_FindExtension). This is the first thing that pytracemalloc.py calls. */
    if (!is_main_interpreter())
        return tm_py_raise(tm_pyf.import_error, NOT_MAIN);
    PyObj *bytes = tm_pyf.PyUnicode_AsEncodedString(name, "utf-8", "surrogatepass");
    if (bytes == NULL)
        return NULL;
    tm_code_add_own(tm_pyf.PyBytes_AsString(bytes), (size_t)tm_pyf.PyBytes_Size(bytes));
    tm_py_decref(bytes);
    return tm_py_none();
}

/* N of PYTRACEMALLOC=N, once in the life of the process; 0 afterwards and where there is none; -1
 * where it is no number. An attached process was not started to be traced. */
static PyObj *py_environment(PyObj *self, PyObj *unused)
{
    static bool asked;
    const char *text = asked || !tm_module_imported ? NULL : getenv("PYTRACEMALLOC");
    long number = 0;
    (void)self;
    (void)unused;
    asked = true;
    for (; text != NULL && *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return tm_pyf.PyLong_FromLongLong(-1);
        if (number <= 1000000)
            number = number * 10 + (*text - '0');
    }
    return tm_pyf.PyLong_FromLongLong(number);
}

/* Called by atexit: no thread of ours may be about when Python goes down. */
static PyObj *py_at_exit(PyObj *self, PyObj *unused)
{
    py_disable(self, unused);
    tm_livefilters_clear();
    tm_tasks_stop();
    return tm_py_none();
}

static struct tm_py_method methods[] = {
    {"enable", py_enable, TM_PY_METH_NOARGS, NULL},
    {"disable", py_disable, TM_PY_METH_NOARGS, NULL},
    {"is_enabled", py_is_enabled, TM_PY_METH_NOARGS, NULL},
    {"at_exit", py_at_exit, TM_PY_METH_NOARGS, NULL},
    {"environment", py_environment, TM_PY_METH_NOARGS, NULL},
    {"add_own_file", py_add_own_file, TM_PY_METH_O, NULL},
    {"get_traceback_limit", py_get_limit, TM_PY_METH_NOARGS, NULL},
    {"set_traceback_limit", py_set_limit, TM_PY_METH_O, NULL},
    {"get_traces", tm_live_get_traces, TM_PY_METH_NOARGS, NULL},
    {"get_stats", tm_live_get_stats, TM_PY_METH_NOARGS, NULL},
    {"get_trace", tm_live_get_trace, TM_PY_METH_O, NULL},
    {"get_object_address", tm_live_get_object_address, TM_PY_METH_O, NULL},
    {"get_object_trace", tm_live_get_object_trace, TM_PY_METH_O, NULL},
    {"get_traced_memory", tm_live_get_traced_memory, TM_PY_METH_NOARGS, NULL},
    {"get_own_memory", tm_live_get_own_memory, TM_PY_METH_NOARGS, NULL},
    {"get_process_memory", tm_live_get_process_memory, TM_PY_METH_NOARGS, NULL},
    {"get_arena_size", tm_metric_arena_size, TM_PY_METH_NOARGS, NULL},
    {"get_unicode_interned", tm_interned_py_get, TM_PY_METH_NOARGS, NULL},
    {"clear_traces", tm_live_clear_traces, TM_PY_METH_NOARGS, NULL},
    {"add_filter", tm_livefilters_py_add, TM_PY_METH_O, NULL},
    {"clear_filters", tm_livefilters_py_clear, TM_PY_METH_NOARGS, NULL},
    {"get_filters", tm_livefilters_py_get, TM_PY_METH_NOARGS, NULL},
    {"filter_normalize", tm_filter_py_normalize, TM_PY_METH_O, NULL},
    {"filter_match", tm_filter_py_match, TM_PY_METH_VARARGS, NULL},
    {"image_filter", tm_filter_py_apply, TM_PY_METH_VARARGS, NULL},
    {"image_take", tm_image_py_take, TM_PY_METH_VARARGS, NULL},
    {"image_load", tm_image_py_load, TM_PY_METH_VARARGS, NULL},
    {"image_info", tm_image_py_info, TM_PY_METH_O, NULL},
    {"image_traces", tm_image_py_traces, TM_PY_METH_O, NULL},
    {"image_stats", tm_image_py_stats, TM_PY_METH_O, NULL},
    {"image_build", tm_build_py_image, TM_PY_METH_VARARGS, NULL},
    {"image_save", tm_save_py, TM_PY_METH_VARARGS, NULL},
    {"groups_make", tm_group_py_make, TM_PY_METH_VARARGS, NULL},
    {"groups_stats", tm_group_py_stats, TM_PY_METH_O, NULL},
    {"groups_compare", tm_group_py_compare, TM_PY_METH_VARARGS, NULL},
    {"changes_rows", tm_group_py_rows, TM_PY_METH_VARARGS, NULL},
    {"changes_sums", tm_group_py_sums, TM_PY_METH_VARARGS, NULL},
    {"task_schedule", tm_tasks_py_schedule, TM_PY_METH_VARARGS, NULL},
    {"task_change", tm_tasks_py_change, TM_PY_METH_VARARGS, NULL},
    {"task_cancel", tm_tasks_py_cancel, TM_PY_METH_O, NULL},
    {"task_is_scheduled", tm_tasks_py_is_scheduled, TM_PY_METH_O, NULL},
    {"get_tasks", tm_tasks_py_list, TM_PY_METH_NOARGS, NULL},
    {"cancel_tasks", tm_tasks_py_cancel_all, TM_PY_METH_NOARGS, NULL},
    {"find_spec", tm_session_py_find_spec, TM_PY_METH_VARARGS, NULL},
    {"find_module", tm_session_py_find_module, TM_PY_METH_VARARGS, NULL},
    {"load_module", tm_session_py_load_module, TM_PY_METH_VARARGS, NULL},
    {"create_module", tm_session_py_create_module, TM_PY_METH_O, NULL},
    {"exec_module", tm_session_py_exec_module, TM_PY_METH_O, NULL},
    {"get_source", tm_session_py_get_source, TM_PY_METH_O, NULL},
    {"get_code", tm_session_py_get_code, TM_PY_METH_O, NULL},
    {"is_package", tm_session_py_is_package, TM_PY_METH_O, NULL},
    {"at_session_end", tm_session_py_at_end, TM_PY_METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* m_size 0 rather than -1: every interpreter comes here, and can be told no. */
static struct definition definition = {
    .ob_ref_local = 0xffffffffull << 32,
    .with_gil =
        {
            .ob_refcnt = 1,
            .m_name = "_pytracemalloc",
            .m_doc = "The C half of pytracemalloc.",
            .m_size = 0,
            .m_methods = methods,
        },
};

static bool set_string(PyObj *module, const char *name, const char *value)
{
    PyObj *text = tm_py_text(value, strlen(value));
    int status = text ? tm_pyf.PyObject_SetAttrString(module, name, text) : -1;
    tm_py_decref(text);
    return status == 0;
}

PyObj *tm_module_new(void)
{
    void *head = tm_py.free_threaded ? (void *)&definition : (void *)&definition.with_gil;
    if (tm_py.free_threaded)
        definition.with_gil.ob_refcnt = 0; /* ob_ref_shared */
    PyObj *module = tm_pyf.PyModule_Create2(head, TM_PY_API_VERSION);
    if (module != NULL &&
        (!set_string(module, "version", TM_VERSION) ||
         !set_string(module, "unseen", tm_py.redirected ? TM_REDIRECT_UNSEEN : ""))) {
        tm_py_decref(module);
        return NULL;
    }
    return module;
}

PyObj *PyInit__pytracemalloc(void)
{
    char message[512] = "";
    /* Without the C API not even an exception can be raised; Python makes a SystemError of it. */
    if (!tm_pyapi_load(message, sizeof(message)) || !tm_pyfuncs_load(message, sizeof(message)))
        return NULL;
    if (tm_tracer_setup(NULL, message, sizeof(message)) < 0)
        return tm_py_raise(tm_pyf.import_error, message);
    if (!is_main_interpreter())
        return tm_py_raise(tm_pyf.import_error, NOT_MAIN);
    if (!has_gil())
        return tm_py_raise(tm_pyf.import_error, NO_GIL);
    tm_module_imported = true;
    tm_tasks_sync();
    return tm_module_new();
}

/* 2.7: whoever is imported puts itself into sys.modules. */
void init_pytracemalloc(void)
{
    PyObj *module = PyInit__pytracemalloc();
    if (module != NULL)
        tm_pyf.PyDict_SetItemString(tm_pyf.PyImport_GetModuleDict(), definition.with_gil.m_name,
                                    module);
    tm_py_decref(module);
}
