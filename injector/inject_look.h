// SPDX-License-Identifier: MIT
/* Looking before anything is touched: every refusal that can be known from outside. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#include "injector/inject.h"
#include "injector/inject_libc.h"
#include "inspect/module.h"
#include "inspect/process.h"
#include "inspect/python.h"

typedef struct tm_look {
    struct tm_process process;
    tm_modules *modules;
    struct tm_inject_libc libc;
    struct tm_python python;
} tm_look;

/* Free with tm_look_free. NULL and a TM_ATTACH_ERROR where the process is refused. */
tm_look *tm_look_new(pid_t pid, enum tm_inject_want want, GError **error);
void tm_look_free(tm_look *look);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_look, tm_look_free)

/* Up to CPython 3.6 there is no GIL before the program's first thread. */
bool tm_look_may_lack_gil(const tm_look *look);

/* "strace (PID 123)": who that is, for messages. To be freed. */
char *tm_look_describe(pid_t pid);
/* Sets *error to the reason why the kernel refuses ptrace of that process to us. */
void tm_look_set_permission_error(const struct tm_process *process, GError **error);
