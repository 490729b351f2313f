// SPDX-License-Identifier: MIT
/*
 * The way in: a live process that has been looked at, a payload, and at the end a payload that
 * runs in that process on a thread of its own.
 *
 *   inject_look    refusals; stops nothing
 *   inject_libc    where libc's functions lie in the target
 *   inject_worker  the process that owns ptrace: searches a thread that may be borrowed
 *     inject_tracee  seize, stop, wait, let go
 *     inject_unwind  the stack of a stopped thread
 *     inject_safe    may this stack call pthread_create now?
 *     inject_call    mmap, mprotect, pthread_create on the borrowed thread
 *   inject_stub    the code that runs in the target until the payload's start function
 *   inject_boot    hands the payload over, watches the boot block
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "injector/errors.h"

enum tm_inject_dwarf {
    TM_INJECT_DWARF_AUTO = 0, /* read DWARF where the payload's table does not know the version */
    TM_INJECT_DWARF_NEVER,
    TM_INJECT_DWARF_ALWAYS, /* where there is debug information */
};

enum tm_inject_want {
    TM_INJECT_WANT_PYTHON = 0, /* refuse what is not a supported CPython */
    TM_INJECT_WANT_ANY,        /* any program: tests of the mechanism */
};

enum tm_inject_search {
    TM_INJECT_SEARCH_AUTO = 0, /* a safe point; after that, stepping out of an allocator */
    TM_INJECT_SEARCH_STEP_OUT, /* only the latter: tests of the mechanism */
};

struct tm_tracee;

/* Zero in a bound means its default. */
struct tm_inject_request {
    pid_t pid;
    GBytes *payload;    /* the bytes of libtm-payload.so; borrowed */
    uint32_t search_ms; /* how long to look for a thread that is safe: 1000 */
    uint32_t boot_ms;   /* from there until the payload runs, GIL not included: 5000 */
    uint32_t gil_ms;    /* how long the payload may wait for the GIL: 10000 */
    enum tm_inject_dwarf dwarf;
    enum tm_inject_want want;
    enum tm_inject_search search;
    /* Its only thread, where the caller traces it: stopped at the end of a system call, before the
     * program has begun. It is borrowed as it is, and in an event stop afterwards. NULL: look for a
     * thread. */
    struct tm_tracee *held;
    /* Called where held is of no use, before anything else is stopped: the caller lets go of it. */
    void (*looked)(void *arg);
    /* Called all the time while the payload starts, with its phase (format/boot.h); takes a moment
     * instead of a sleep. NULL: nothing. */
    void (*booting)(void *arg, uint32_t phase);
    void *hook_arg; /* of both */
};

struct tm_inject_result {
    char python_version[32]; /* "3.11.7"; "" where it is not known */
    uint32_t python_hex;     /* PY_VERSION_HEX; low bits 0 where only X.Y is known */
    uint64_t worst_stop_ns;  /* the longest time any one thread was stopped */
    uint64_t worst_wait_ns;  /* of it: that thread or the worker was ready, but had no processor */
    uint64_t total_stop_ns;
    uint32_t stops;      /* how many stops it took */
    pid_t tid;           /* the borrowed thread */
    int32_t control_fd;  /* of the control channel, a number in the target; -1: none */
    uint64_t state_addr; /* of struct tm_state in the target; 0: none */
    uint64_t boot_addr;  /* of struct tm_boot in the target */
};

/*
 * Looks, searches, injects and waits until the payload reports TM_BOOT_RUNNING. On failure the
 * error is TM_ATTACH_ERROR with a message of one line (what, why, what to do), the target runs on
 * as before, and *ret has the stops that were made. Call it from a process without other threads
 * (it forks), with SIGCHLD at its default.
 */
bool tm_inject(const struct tm_inject_request *request, struct tm_inject_result *ret,
               GError **error);

/* Reads the payload's file and checks that it is a shared object for this machine that exports
 * TM_START_SYMBOL. TM_ATTACH_ERROR_PAYLOAD otherwise. */
GBytes *tm_inject_read_payload(const char *path, GError **error);

/* Only looks: every refusal that needs no stop. For --dry-run, and called by tm_inject itself. */
bool tm_inject_check(const struct tm_inject_request *request, struct tm_inject_result *ret,
                     GError **error);
