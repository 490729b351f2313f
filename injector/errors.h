// SPDX-License-Identifier: MIT
/*
 * Why an attach was refused or failed: one code per reason, each with the exit status that
 * tm-attach(1) documents. Statuses are part of the interface; never renumber them.
 */
#pragma once

#include <glib.h>

#define TM_ATTACH_ERROR (tm_attach_error_quark())

enum tm_attach_error {
    /* the request */
    TM_ATTACH_ERROR_NO_PROCESS,  /* no such pid */
    TM_ATTACH_ERROR_ZOMBIE,      /* it has ended, nobody has waited for it yet */
    TM_ATTACH_ERROR_THREAD,      /* a thread that is not its process' leader */
    TM_ATTACH_ERROR_SELF,        /* tm-attach itself */
    TM_ATTACH_ERROR_KERNEL,      /* a kernel thread */
    TM_ATTACH_ERROR_LEADER_GONE, /* the main thread has ended, others run on */
    /* what runs there */
    TM_ATTACH_ERROR_NOT_PYTHON,
    TM_ATTACH_ERROR_PYPY,
    TM_ATTACH_ERROR_UNPATCHED, /* Python 2.7 or 3.3 without the allocator API */
    TM_ATTACH_ERROR_VERSION,   /* a CPython outside what is supported */
    TM_ATTACH_ERROR_CLASS,     /* 32-bit */
    TM_ATTACH_ERROR_MACHINE,   /* another architecture */
    TM_ATTACH_ERROR_STATIC,    /* no dynamic linker in it */
    TM_ATTACH_ERROR_LIBC,      /* libc was found, but not the functions that are needed */
    /* who else is there */
    TM_ATTACH_ERROR_TRACED,   /* by a debugger */
    TM_ATTACH_ERROR_ATTACHED, /* a payload is in it already */
    TM_ATTACH_ERROR_BUSY,     /* another tm-attach is attaching this very moment */
    /* permission */
    TM_ATTACH_ERROR_OTHER_USER,
    TM_ATTACH_ERROR_YAMA,
    TM_ATTACH_ERROR_NOT_DUMPABLE,
    TM_ATTACH_ERROR_CAPABILITY, /* root without CAP_SYS_PTRACE, or another user namespace */
    TM_ATTACH_ERROR_SECCOMP,    /* strict mode: nothing but read and write */
    /* our side */
    TM_ATTACH_ERROR_PAYLOAD, /* missing, corrupt, for another machine */
    TM_ATTACH_ERROR_INTERNAL,
    /* on the way */
    TM_ATTACH_ERROR_NO_SAFE_POINT,
    TM_ATTACH_ERROR_STOPPED,  /* stays in SIGSTOP, so that nothing can run */
    TM_ATTACH_ERROR_RESOURCE, /* threads, memory or descriptors are spent */
    TM_ATTACH_ERROR_DLOPEN,
    TM_ATTACH_ERROR_LAYOUT,
    TM_ATTACH_ERROR_PYTHON, /* the payload does not want this Python */
    TM_ATTACH_ERROR_GIL,
    TM_ATTACH_ERROR_TIMEOUT, /* the payload did not report in time */
    TM_ATTACH_ERROR_DIED,    /* the target ended or called exec meanwhile */
    TM_ATTACH_ERRORS,        /* how many there are */
};

GQuark tm_attach_error_quark(void);

/* The exit status of tm-attach for a code; 1 for what is not a code. 2 is left to usage errors. */
int tm_attach_error_exit_status(int code);
/* A short name for scripts and tests, e.g. "no-process"; static. */
const char *tm_attach_error_name(int code);
