// SPDX-License-Identifier: MIT
/*
 * The functions of CPython's C API that the payload calls, looked up at run
 * time: no Python header is used and no Python library is linked. Prototypes
 * are those of the C API documentation; "since" names the first version that
 * exports a function under that name. A missing optional one is NULL.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tm_py_object tm_py_object; /* PyObject */
typedef struct tm_py_tstate tm_py_tstate; /* PyThreadState */

enum { TM_PY_DOMAIN_RAW = 0, TM_PY_DOMAIN_MEM = 1, TM_PY_DOMAIN_OBJ = 2, TM_PY_DOMAINS = 3 };

/* PyMemAllocatorEx (3.5 on). 3.4 and patched older ones have no calloc, and their
 * PyMem_GetAllocator gives NULL for it: the functions below pass on four pointers there. */
struct tm_py_allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t n, size_t size);
    void *(*realloc)(void *ctx, void *ptr, size_t size);
    void (*free)(void *ctx, void *ptr);
};

struct tm_pyapi {
    uint32_t version_hex; /* PY_VERSION_HEX of the interpreter that runs */
    char version[32];     /* "3.11.7" */
    bool free_threaded;
    bool redirected; /* 2.7 without the API: PyMem_*Allocator are those of payload/redirect.h */
    void *runtime;   /* &_PyRuntime, 3.7 on; NULL where not exported */
    const char *(*Py_GetVersion)(void);
    int (*Py_IsInitialized)(void);
    int (*Py_IsFinalizing)(void); /* _Py_IsFinalizing 3.7 to 3.12, public since 3.13 */
    int (*PyGILState_Ensure)(void);
    void (*PyGILState_Release)(int state);
    tm_py_tstate *(*PyGILState_GetThisThreadState)(void);
    tm_py_tstate *(*PyThreadState_New)(void *interp);
    tm_py_tstate *(*UncheckedGet)(void); /* _PyThreadState_UncheckedGet, its successor, or ours */
    const uint64_t *current_tstate; /* &_PyThreadState_Current, exported up to 3.6; else NULL */
    int (*PyEval_ThreadsInitialized)(void); /* up to 3.12 */
    void (*PyEval_InitThreads)(void);       /* up to 3.12 */
    void (*PyMem_GetAllocator)(int domain, struct tm_py_allocator *allocator);
    void (*PyMem_SetAllocator)(int domain, struct tm_py_allocator *allocator);
    int (*PyCode_Addr2Line)(tm_py_object *code, int byte_offset);
    tm_py_object *(*PyThread_CurrentFrames)(void); /* _PyThread_CurrentFrames: {id: frame} */
    int (*Py_AddPendingCall)(int (*func)(void *), void *arg);
    tm_py_object *(*PyUnicode_FromString)(const char *);
    tm_py_object *(*PyString_FromString)(const char *);    /* 2.7 */
    tm_py_object *(*PyEval_GetFrame)(void);                /* borrowed */
    tm_py_object *(*PyFrame_GetBack)(tm_py_object *frame); /* since 3.9; new reference */
    tm_py_object *(*PyFrame_GetCode)(tm_py_object *frame); /* since 3.9; new reference */
    int (*PyFrame_GetLineNumber)(tm_py_object *frame);
    tm_py_object *(*PyObject_GetAttrString)(tm_py_object *, const char *);
    int (*PyDict_Next)(tm_py_object *, long *, tm_py_object **, tm_py_object **);
    unsigned long (*PyLong_AsUnsignedLong)(tm_py_object *);
    long (*PyLong_AsLong)(tm_py_object *);
    tm_py_object *(*PyErr_Occurred)(void); /* borrowed */
    void (*PyErr_Clear)(void);
    tm_py_tstate *(*PyInterpreterState_ThreadHead)(void *interp);
    tm_py_tstate *(*PyThreadState_Next)(tm_py_tstate *);
    void *(*PyInterpreterState_Head)(void);
    void *(*PyInterpreterState_Main)(void); /* since 3.7 */
    void *(*PyInterpreterState_Next)(void *interp);
    tm_py_object *none; /* Py_None, immortal in practice */
    void (*Py_IncRef)(tm_py_object *);
    void (*Py_DecRef)(tm_py_object *);
};

/* Filled by tm_pyapi_load; read-only afterwards. */
extern struct tm_pyapi tm_py;

/* Looks the functions up in whatever module of this process exports them. False with a one-line
 * message where a needed one is missing. No GIL needed. Idempotent. */
bool tm_pyapi_load(char *message, size_t message_bytes);

/* The main interpreter, whose GIL PyGILState_Ensure takes. Once Python is initialized; no GIL. */
void *tm_py_main_interpreter(void);

/* Address of any symbol of the interpreter's, NULL where it has none. After tm_pyapi_load. */
void *tm_pyapi_find(const char *name);
