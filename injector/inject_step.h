// SPDX-License-Identifier: MIT
/*
 * Named moments of an injection, at which the tests let things go wrong. TM_DEBUG_STEP=NAME:WHAT
 * in the environment does WHAT at the moment NAME: "die" kills the process that is there (worker
 * or tm-attach), "kill" kills the target, "stop" stops the process for TM_DEBUG_STOP_MS (a second
 * without it), "pause" until it gets SIGCONT, "exit" makes both tm-attach and the worker die, "int"
 * and "term" send tm-attach that signal, "usr1" sends the target one. Nothing happens without it.
 */
#pragma once

#include <sys/types.h>

enum tm_step {
    TM_STEP_LOOKED, /* tm-attach: nothing was touched */
    TM_STEP_SEIZED, /* worker, from here on */
    TM_STEP_STOPPED,
    TM_STEP_SAVED,
    TM_STEP_FRAME, /* the frame is on the stack */
    TM_STEP_REGS,  /* the registers are set */
    TM_STEP_MASK,  /* and signals blocked */
    TM_STEP_MMAP_ENTRY,
    TM_STEP_MMAP, /* the block is mapped */
    TM_STEP_WRITTEN,
    TM_STEP_CALL,    /* about to call pthread_create */
    TM_STEP_PARKED,  /* it has returned, and waits to be taken home */
    TM_STEP_CREATED, /* stopped there */
    TM_STEP_HOME,    /* in an event stop, about to restore */
    TM_STEP_RESTORED,
    TM_STEP_DETACHED,
    TM_STEP_WORKED, /* tm-attach again: the worker has reported */
    TM_STEP_MEMFD,  /* the new thread has made its memfd */
    TM_STEP_FILLED,
    TM_STEP_READY, /* the thread was told */
    TM_STEP_RUNNING,
    TM_STEP_HOOKED, /* worker: the return address out of the allocator is replaced */
    TM_STEPS,
};

const char *tm_step_name(enum tm_step step);
/* Where the environment asks for it, does what it asks for. */
void tm_step(enum tm_step step, pid_t target);
