// SPDX-License-Identifier: MIT
#include "payload/pyapi.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "payload/redirect.h"
#include "payload/tstate.h"

struct tm_pyapi tm_py;

/*
 * An embedding program may have loaded libpython with RTLD_LOCAL: then the global scope does not
 * show it, and its handle must be asked for by name. /proc/thread-self/maps has the names.
 */
static void *find_local_libpython(void)
{
    FILE *maps = fopen("/proc/thread-self/maps", "re");
    char line[4096 + 128];
    void *handle = NULL;
    while (maps != NULL && handle == NULL && fgets(line, sizeof(line), maps) != NULL) {
        char *path = strchr(line, '/');
        char *base = path ? strrchr(path, '/') + 1 : NULL;
        if (base == NULL || strncmp(base, "libpython", 9) != 0)
            continue;
        path[strcspn(path, "\n")] = '\0';
        char *deleted = strstr(path, " (deleted)");
        if (deleted != NULL)
            *deleted = '\0';
        handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    }
    if (maps != NULL)
        fclose(maps);
    return handle;
}

static void *python_handle;

void *tm_pyapi_find(const char *name)
{
    return dlsym(python_handle, name);
}

static void *find(const char *name)
{
    return dlsym(python_handle, name);
}

/* ---- what old versions have in another form ---- */

/* PyMemAllocator of 3.4, and of the patched 2.7 and 3.3. */
struct four_pointers {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*realloc)(void *ctx, void *ptr, size_t size);
    void (*free)(void *ctx, void *ptr);
};

static void (*get_four)(int domain, struct four_pointers *allocator);
static void (*set_four)(int domain, struct four_pointers *allocator);

static void get_allocator(int domain, struct tm_py_allocator *allocator)
{
    struct four_pointers four = {0};
    get_four(domain, &four);
    *allocator = (struct tm_py_allocator){
        .ctx = four.ctx, .malloc = four.malloc, .realloc = four.realloc, .free = four.free};
}

static void set_allocator(int domain, struct tm_py_allocator *allocator)
{
    struct four_pointers four = {allocator->ctx, allocator->malloc, allocator->realloc,
                                 allocator->free};
    set_four(domain, &four);
}

/* Up to 3.5.1 there is no function that gives the current thread state without a check. */
static tm_py_tstate *current_tstate(void)
{
    return (tm_py_tstate *)__atomic_load_n(tm_py.current_tstate, __ATOMIC_RELAXED);
}

static bool adapt_old(struct tm_pyapi *api, char *message, size_t message_bytes)
{
    if (api->version_hex >> 16 == 0x0207 && api->PyMem_SetAllocator == NULL) {
        api->redirected = true;
        api->PyMem_GetAllocator = tm_redirect_get;
        api->PyMem_SetAllocator = tm_redirect_set;
    } else if (api->version_hex < 0x03050000 && api->PyMem_SetAllocator != NULL) {
        memcpy(&get_four, &api->PyMem_GetAllocator, sizeof(get_four));
        memcpy(&set_four, &api->PyMem_SetAllocator, sizeof(set_four));
        api->PyMem_GetAllocator = get_allocator;
        api->PyMem_SetAllocator = set_allocator;
    }
    if (api->version_hex >= 0x03070000)
        api->current_tstate = NULL;
    if (api->UncheckedGet == NULL && api->current_tstate != NULL)
        api->UncheckedGet = current_tstate;
    const char *missing = api->PyMem_SetAllocator == NULL     ? "PyMem_SetAllocator"
                          : api->PyMem_GetAllocator == NULL   ? "PyMem_GetAllocator"
                          : api->UncheckedGet == NULL         ? "_PyThreadState_UncheckedGet"
                          : api->PyUnicode_FromString == NULL ? "PyUnicode_FromString"
                                                              : NULL;
    if (missing == NULL)
        return true;
    snprintf(message, message_bytes, "this Python %s does not export %s", api->version, missing);
    return false;
}

struct entry {
    void *place; /* of a function pointer in tm_py */
    const char *name;
    const char *other_name; /* a second name for the same function, or NULL */
    bool needed;
};

static bool load_all(const struct entry *entries, size_t n, char *message, size_t message_bytes)
{
    for (size_t i = 0; i < n; i++) {
        void *symbol = find(entries[i].name);
        if (symbol == NULL && entries[i].other_name != NULL)
            symbol = find(entries[i].other_name);
        if (symbol == NULL && entries[i].needed) {
            snprintf(message, message_bytes, "this Python %s does not export %s", tm_py.version,
                     entries[i].name);
            return false;
        }
        memcpy(entries[i].place, &symbol, sizeof(symbol));
    }
    return true;
}

static unsigned read_number(const char **text)
{
    unsigned number = 0;
    while (**text >= '0' && **text <= '9')
        number = number * 10 + (unsigned)(*(*text)++ - '0');
    return number;
}

/* "3.11.7 (main, ...)", "3.14.0b1 free-threading build (...)". By hand: the scanf of a new libc is
 * a symbol that an old one does not have. */
static bool parse_version(const char *text)
{
    const char *p = text;
    unsigned major = read_number(&p);
    unsigned minor = *p == '.' ? p++, read_number(&p) : 0;
    unsigned micro = *p == '.' ? p++, read_number(&p) : 0;
    if (major == 0)
        return false;
    tm_py.version_hex = major << 24 | minor << 16 | micro << 8 | 0xf0;
    snprintf(tm_py.version, sizeof(tm_py.version), "%.*s", (int)strcspn(text, " "), text);
    tm_py.free_threaded = strstr(text, "free-threading") != NULL;
    return true;
}

bool tm_pyapi_load(char *message, size_t message_bytes)
{
    static bool loaded;
    if (loaded)
        return true;
    python_handle = RTLD_DEFAULT;
    if (find("Py_GetVersion") == NULL && (python_handle = find_local_libpython()) == NULL) {
        snprintf(message, message_bytes, "no CPython in this process exports its C API");
        return false;
    }
    void *get_version = find("Py_GetVersion");
    memcpy(&tm_py.Py_GetVersion, &get_version, sizeof(get_version));
    if (get_version == NULL || !parse_version(tm_py.Py_GetVersion())) {
        snprintf(message, message_bytes, "Python does not tell its version");
        return false;
    }
    struct tm_pyapi *api = &tm_py;
    const struct entry entries[] = {
        {&api->Py_IsInitialized, "Py_IsInitialized", NULL, true},
        {&api->Py_IsFinalizing, "Py_IsFinalizing", "_Py_IsFinalizing", false},
        {&api->PyGILState_Ensure, "PyGILState_Ensure", NULL, true},
        {&api->PyGILState_Release, "PyGILState_Release", NULL, true},
        {&api->PyGILState_GetThisThreadState, "PyGILState_GetThisThreadState", NULL, true},
        {&api->PyThreadState_New, "PyThreadState_New", NULL, true},
        {&api->UncheckedGet, "_PyThreadState_UncheckedGet", "PyThreadState_GetUnchecked", false},
        {&api->current_tstate, "_PyThreadState_Current", NULL, false},
        {&api->PyEval_ThreadsInitialized, "PyEval_ThreadsInitialized", NULL, false},
        {&api->PyEval_InitThreads, "PyEval_InitThreads", NULL, false},
        {&api->PyMem_GetAllocator, "PyMem_GetAllocator", NULL, false},
        {&api->PyCode_Addr2Line, "PyCode_Addr2Line", NULL, true},
        {&api->PyThread_CurrentFrames, "_PyThread_CurrentFrames", NULL, true},
        {&api->Py_AddPendingCall, "Py_AddPendingCall", NULL, true},
        {&api->PyUnicode_FromString, "PyUnicode_FromString", "PyUnicodeUCS4_FromString", false},
        {&api->PyString_FromString, "PyString_FromString", NULL, false},
        {&api->PyEval_GetFrame, "PyEval_GetFrame", NULL, true},
        {&api->PyFrame_GetBack, "PyFrame_GetBack", NULL, false},
        {&api->PyFrame_GetCode, "PyFrame_GetCode", NULL, false},
        {&api->PyFrame_GetLineNumber, "PyFrame_GetLineNumber", NULL, true},
        {&api->PyObject_GetAttrString, "PyObject_GetAttrString", NULL, true},
        {&api->PyDict_Next, "PyDict_Next", NULL, true},
        {&api->PyLong_AsUnsignedLong, "PyLong_AsUnsignedLong", NULL, true},
        {&api->PyLong_AsLong, "PyLong_AsLong", NULL, true},
        {&api->PyErr_Occurred, "PyErr_Occurred", NULL, true},
        {&api->PyErr_Clear, "PyErr_Clear", NULL, true},
        {&api->PyInterpreterState_ThreadHead, "PyInterpreterState_ThreadHead", NULL, true},
        {&api->PyThreadState_Next, "PyThreadState_Next", NULL, true},
        {&api->PyInterpreterState_Head, "PyInterpreterState_Head", NULL, true},
        {&api->PyInterpreterState_Main, "PyInterpreterState_Main", NULL, false},
        {&api->PyInterpreterState_Next, "PyInterpreterState_Next", NULL, true},
        {&api->Py_IncRef, "Py_IncRef", NULL, true},
        {&api->Py_DecRef, "Py_DecRef", NULL, true},
        {&api->none, "_Py_NoneStruct", NULL, true},
        {&api->runtime, "_PyRuntime", NULL, false},
        {&api->PyMem_SetAllocator, "PyMem_SetAllocator", NULL, false},
    };
    if (!load_all(entries, sizeof(entries) / sizeof(entries[0]), message, message_bytes))
        return false;
    void *ucs2 = find("PyUnicodeUCS2_FromString");
    if (api->PyUnicode_FromString == NULL)
        memcpy(&api->PyUnicode_FromString, &ucs2, sizeof(ucs2));
    if (!adapt_old(api, message, message_bytes))
        return false;
    tm_tstate_look();
    loaded = true;
    return true;
}

/* The oldest interpreter: the list is from young to old. */
void *tm_py_main_interpreter(void)
{
    if (tm_py.PyInterpreterState_Main != NULL)
        return tm_py.PyInterpreterState_Main();
    void *interp = tm_py.PyInterpreterState_Head(), *next;
    while ((next = tm_py.PyInterpreterState_Next(interp)) != NULL)
        interp = next;
    return interp;
}
