// SPDX-License-Identifier: MIT
/*
 * The process that owns ptrace. It searches a thread that may be borrowed, makes it create the
 * new thread, lets it go, reports and ends. It is a process of its own because its end is the
 * only way to let go of a thread that was asked to stop and never did, and because nothing that
 * happens to tm-attach (a signal, a closed terminal) may reach it half-way.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "injector/inject_call.h"
#include "injector/inject_safe.h"

enum tm_work_result {
    TM_WORK_UNFINISHED = 0, /* the worker died */
    TM_WORK_DONE,
    TM_WORK_NO_SAFE_POINT,
    TM_WORK_STUCK_THREAD, /* a thread did not stop: a new worker goes on without it */
    TM_WORK_REFUSED,      /* PTRACE_SEIZE: error_number */
    TM_WORK_RESOURCE,
    TM_WORK_STUCK_CALL, /* the call did not come back; it may still be carried out */
    TM_WORK_CRASHED,
    TM_WORK_GONE,
    TM_WORK_SECCOMP, /* a filter would end the process at system call error_number */
};

struct tm_work_report {
    enum tm_work_result result;
    int error_number;
    pid_t tid; /* borrowed, refused or stuck */
    uint64_t block_addr;
    uint64_t worst_stop_ns;
    uint64_t worst_wait_ns; /* part of the worst stop that nobody had a processor for */
    uint64_t total_stop_ns;
    uint32_t stops;
    uint32_t verdicts[TM_VERDICTS]; /* how many stops ended how */
};

struct tm_work {
    pid_t pid;
    uint64_t start_ticks; /* of the process that was looked at */
    tm_modules *modules;
    const struct tm_inject_libc *libc;
    tm_unwinder *unwinder;
    const struct tm_stub_data *data;
    bool keep_syscall;
    bool leader_first;  /* the main thread is the one that can make a GIL */
    bool step_out_only; /* look for no safe point */
    enum tm_arch_restart restart;
    uint64_t search_ns;
};

/* Starts workers until one has an answer, and waits for it. False with *error where none could be
 * started. */
bool tm_inject_work(const struct tm_work *work, struct tm_work_report *ret, GError **error);
/* The same in this process, for the only thread of a program that has not begun, which the caller
 * traces: from the end of one system call to that of the next, until it is at a safe point. False:
 * it was at none. */
bool tm_inject_work_held(const struct tm_work *work, struct tm_tracee *held,
                         struct tm_work_report *ret);
