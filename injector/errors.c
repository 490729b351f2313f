// SPDX-License-Identifier: MIT
/* The table from reasons to exit statuses. */
#include "injector/errors.h"

G_DEFINE_QUARK(tm - attach - error - quark, tm_attach_error)

/* 1 is "something else", 2 usage (GOption); 10 and up: the target is not one that can be traced;
 * 20: somebody else is there; 30: permission; 40: our side; 50: failed on the way. */
static const struct {
    int exit_status;
    const char *name;
} table[TM_ATTACH_ERRORS] = {
    [TM_ATTACH_ERROR_NO_PROCESS] = {10, "no-process"},
    [TM_ATTACH_ERROR_ZOMBIE] = {11, "zombie"},
    [TM_ATTACH_ERROR_THREAD] = {12, "thread"},
    [TM_ATTACH_ERROR_SELF] = {13, "self"},
    [TM_ATTACH_ERROR_KERNEL] = {14, "kernel-thread"},
    [TM_ATTACH_ERROR_LEADER_GONE] = {15, "leader-gone"},
    [TM_ATTACH_ERROR_NOT_PYTHON] = {16, "not-python"},
    [TM_ATTACH_ERROR_PYPY] = {17, "pypy"},
    [TM_ATTACH_ERROR_UNPATCHED] = {18, "unpatched-python"},
    [TM_ATTACH_ERROR_VERSION] = {19, "python-version"},
    [TM_ATTACH_ERROR_CLASS] = {20, "32-bit"},
    [TM_ATTACH_ERROR_MACHINE] = {21, "machine"},
    [TM_ATTACH_ERROR_STATIC] = {22, "static"},
    [TM_ATTACH_ERROR_LIBC] = {23, "libc"},
    [TM_ATTACH_ERROR_TRACED] = {24, "traced"},
    [TM_ATTACH_ERROR_ATTACHED] = {25, "already-attached"},
    [TM_ATTACH_ERROR_BUSY] = {26, "busy"},
    [TM_ATTACH_ERROR_OTHER_USER] = {30, "other-user"},
    [TM_ATTACH_ERROR_YAMA] = {31, "yama"},
    [TM_ATTACH_ERROR_NOT_DUMPABLE] = {32, "not-dumpable"},
    [TM_ATTACH_ERROR_CAPABILITY] = {33, "capability"},
    [TM_ATTACH_ERROR_SECCOMP] = {34, "seccomp"},
    [TM_ATTACH_ERROR_PAYLOAD] = {40, "payload"},
    [TM_ATTACH_ERROR_INTERNAL] = {41, "internal"},
    [TM_ATTACH_ERROR_NO_SAFE_POINT] = {50, "no-safe-point"},
    [TM_ATTACH_ERROR_STOPPED] = {51, "stopped"},
    [TM_ATTACH_ERROR_RESOURCE] = {52, "resource"},
    [TM_ATTACH_ERROR_DLOPEN] = {53, "dlopen"},
    [TM_ATTACH_ERROR_LAYOUT] = {54, "layout"},
    [TM_ATTACH_ERROR_PYTHON] = {55, "python"},
    [TM_ATTACH_ERROR_GIL] = {56, "gil"},
    [TM_ATTACH_ERROR_TIMEOUT] = {57, "timeout"},
    [TM_ATTACH_ERROR_DIED] = {58, "died"},
};

int tm_attach_error_exit_status(int code)
{
    return code >= 0 && code < TM_ATTACH_ERRORS ? table[code].exit_status : 1;
}

const char *tm_attach_error_name(int code)
{
    return code >= 0 && code < TM_ATTACH_ERRORS ? table[code].name : "unknown";
}
