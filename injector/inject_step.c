// SPDX-License-Identifier: MIT
/* Named moments of an injection, for the tests. */
#include "injector/inject_step.h"

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *tm_step_name(enum tm_step step)
{
    static const char *const names[TM_STEPS] = {
        "looked", "seized",  "stopped", "saved",  "frame",   "regs",   "mask",     "mmap-entry",
        "mmap",   "written", "call",    "parked", "created", "home",   "restored", "detached",
        "worked", "memfd",   "filled",  "ready",  "running", "hooked",
    };
    return step < TM_STEPS ? names[step] : "?";
}

static bool is_in_worker(enum tm_step step)
{
    return (step >= TM_STEP_SEIZED && step <= TM_STEP_DETACHED) || step == TM_STEP_HOOKED;
}

void tm_step(enum tm_step step, pid_t target)
{
    const char *wanted = getenv("TM_DEBUG_STEP");
    if (wanted == NULL)
        return;
    const char *name = tm_step_name(step);
    size_t length = strlen(name);
    if (strncmp(wanted, name, length) != 0 || wanted[length] != ':')
        return;
    const char *what = wanted + length + 1;
    if (strcmp(what, "die") == 0) {
        kill(getpid(), SIGKILL);
    } else if (strcmp(what, "exit") == 0) {
        /* The steps in between are the worker's, and its parent is tm-attach. */
        if (is_in_worker(step))
            kill(getppid(), SIGKILL);
        kill(getpid(), SIGKILL);
    } else if (strcmp(what, "kill") == 0) {
        kill(target, SIGKILL);
    } else if (strcmp(what, "usr1") == 0) {
        /* Once: a step that is passed again would hit the program that was exec'ed. */
        static int sent;
        if (sent++ == 0)
            kill(target, SIGUSR1);
    } else if (strcmp(what, "int") == 0 || strcmp(what, "term") == 0) {
        kill(is_in_worker(step) ? getppid() : getpid(), *what == 'i' ? SIGINT : SIGTERM);
    } else if (strcmp(what, "pause") == 0) {
        kill(getpid(), SIGSTOP);
    } else if (strcmp(what, "stop") == 0) {
        const char *text = getenv("TM_DEBUG_STOP_MS");
        long ms = text != NULL ? atol(text) : 1000;
        nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
    }
}
