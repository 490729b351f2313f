// SPDX-License-Identifier: MIT
/* An executable that looks like an old Python without shared library and allocator API, to those
 * who look from outside: it exports the names, has the versions among its strings, and waits. */
#include <stdio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT void PyGILState_Ensure(void);
EXPORT void PyEval_SaveThread(void);
EXPORT void PyObject_Malloc(void);
EXPORT void PyObject_Realloc(void);
EXPORT void PyObject_Free(void);

void PyGILState_Ensure(void)
{
}

void PyEval_SaveThread(void)
{
}

void PyObject_Malloc(void)
{
}

void PyObject_Realloc(void)
{
}

void PyObject_Free(void)
{
}

int main(void)
{
    static const char *const versions[] = {"2.7.18", "3.3.7"};
    char byte;
    for (int i = 0; i < 2; i++)
        puts(versions[i]);
    fflush(stdout);
    return read(STDIN_FILENO, &byte, 1) < 0;
}
