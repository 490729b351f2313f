// SPDX-License-Identifier: MIT
/* The calls on the borrowed thread: from a stop at a safe point to a new thread and back. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "injector/arch.h"
#include "injector/inject_landing.h"
#include "injector/inject_libc.h"
#include "injector/inject_stub.h"
#include "injector/inject_tracee.h"

enum tm_call_result {
    TM_CALL_DONE = 0,
    TM_CALL_UNUSABLE, /* nothing was changed; another thread may do */
    TM_CALL_GONE,     /* the thread ended */
    TM_CALL_RESOURCE, /* mmap or pthread_create said no: error_number */
    TM_CALL_STUCK,    /* it did not come back in time; let go of, it finishes by itself */
    TM_CALL_CRASHED,  /* a fatal signal inside the call: restored, error_number is the signal */
};

struct tm_call {
    pid_t pid;  /* tm_process_living of it */
    int mem_fd; /* /proc/PID/mem */
    const struct tm_inject_libc *libc;
    const struct tm_stub_data *data; /* the template: addresses of the block are filled in here */
    bool keep_syscall;               /* seccomp filters: never change the number of a system call */
    bool stack_grows;                /* the stack pointer is in the main thread's stack */
    uint64_t place_addr;             /* where nothing is mapped, for the block; 0: not known */
    uint64_t deadline_ns;
    struct tm_landing landing; /* tm_call_hook_return only */
    pid_t ns_tid;              /* the same: the thread's number in its own PID namespace */
    /* results */
    uint64_t block_addr;
    int error_number;
};

/* The tracee is in an event stop at a safe point; afterwards it is in an event or signal stop with
 * its own state back (DONE, UNUSABLE, RESOURCE, CRASHED), or running, or gone. */
enum tm_call_result tm_call_create_thread(struct tm_call *call, struct tm_tracee *tracee);

/*
 * The same for a thread that is inside an allocator, in two parts. After tm_call_hook_return it has
 * its own state back, and will make the new thread when it leaves the allocator (DONE); let it go
 * then. tm_call_wait_landed waits for that without stopping it: DONE, RESOURCE, GONE, or STUCK
 * where it has not left within the bound. Then stop it again, and tm_call_unhook_return puts the
 * address back and unmaps the block: UNUSABLE where that was done, STUCK where the thread has left
 * meanwhile.
 */
enum tm_call_result tm_call_hook_return(struct tm_call *call, struct tm_tracee *tracee);
enum tm_call_result tm_call_wait_landed(struct tm_call *call);
enum tm_call_result tm_call_unhook_return(struct tm_call *call, struct tm_tracee *tracee);
