// SPDX-License-Identifier: MIT
#include "payload/layout_self.h"

#include <stdio.h>
#include <string.h>

#include "payload/layout.h"
#include "payload/pyapi.h"

/* PyMethodDef, Include/methodobject.h. */
struct method_def {
    const char *name;
    tm_py_object *(*function)(tm_py_object *self, tm_py_object *arguments);
    int flags;
    const char *doc;
};

enum { METH_NOARGS = 4, EVAL_INPUT = 258 }; /* Py_eval_input, Include/compile.h */

static struct {
    tm_py_object *(*Py_CompileString)(const char *text, const char *name, int start);
    tm_py_object *(*PyEval_EvalCode)(tm_py_object *code, tm_py_object *globals,
                                     tm_py_object *locals);
    tm_py_object *(*PyEval_GetBuiltins)(void);
    tm_py_object *(*PyDict_New)(void);
    int (*PyDict_SetItemString)(tm_py_object *dict, const char *key, tm_py_object *value);
    void (*PyDict_Clear)(tm_py_object *dict);
    tm_py_object *(*PyCFunction_NewEx)(struct method_def *method, tm_py_object *self,
                                       tm_py_object *module);
} api;

static tm_layout_compare *compare;
static bool same;

static bool load_api(void)
{
    const struct {
        void *place;
        const char *name;
    } entries[] = {
        {&api.Py_CompileString, "Py_CompileString"},
        {&api.PyEval_EvalCode, "PyEval_EvalCode"},
        {&api.PyEval_GetBuiltins, "PyEval_GetBuiltins"},
        {&api.PyDict_New, "PyDict_New"},
        {&api.PyDict_SetItemString, "PyDict_SetItemString"},
        {&api.PyDict_Clear, "PyDict_Clear"},
        {&api.PyCFunction_NewEx, "PyCFunction_NewEx"},
    };
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        void *symbol = tm_pyapi_find(entries[i].name);
        if (symbol == NULL)
            return false;
        memcpy(entries[i].place, &symbol, sizeof(symbol));
    }
    return true;
}

/* Called by the Python code below: this thread's frames are on its stack. */
static tm_py_object *look(tm_py_object *self, tm_py_object *arguments)
{
    tm_py_object *frame = tm_py.PyEval_GetFrame();
    (void)self;
    (void)arguments;
    same = frame != NULL && compare((uint64_t)tm_py.UncheckedGet(), frame);
    tm_py.Py_IncRef(tm_py.none);
    return tm_py.none;
}

static void run(tm_py_object *globals, tm_py_object *function)
{
    /* A function's, a generator's and a module's frame. */
    tm_py_object *code =
        api.Py_CompileString("(lambda: next(look() for _ in (0,)))()", "<tm>", EVAL_INPUT);
    if (code != NULL && api.PyDict_SetItemString(globals, "look", function) == 0 &&
        api.PyDict_SetItemString(globals, "__builtins__", api.PyEval_GetBuiltins()) == 0) {
        tm_py_object *result = api.PyEval_EvalCode(code, globals, globals);
        if (result != NULL)
            tm_py.Py_DecRef(result);
        else
            same = false;
    }
    if (code != NULL)
        tm_py.Py_DecRef(code);
}

bool tm_layout_check_self(tm_layout_compare *compare_stack)
{
    static struct method_def method = {"look", look, METH_NOARGS, NULL};
    if (!load_api())
        return false;
    compare = compare_stack;
    same = false;
    tm_py_object *globals = api.PyDict_New();
    tm_py_object *function = api.PyCFunction_NewEx(&method, NULL, NULL);
    if (globals != NULL && function != NULL)
        run(globals, function);
    if (globals != NULL) {
        /* Functions of a free-threaded build may outlive their last reference until the garbage
         * collector comes by; `look` must not, as its code can be unmapped before that. */
        api.PyDict_Clear(globals);
        tm_py.Py_DecRef(globals);
    }
    if (function != NULL)
        tm_py.Py_DecRef(function);
    tm_py.PyErr_Clear();
    return same;
}
