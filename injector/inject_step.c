// SPDX-License-Identifier: MIT
/* Named moments of an injection, for the tests. */
#include "injector/inject_step.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *tm_step_name(enum tm_step step)
{
    static const char *const names[TM_STEPS] = {
        "looked", "seized",  "stopped", "saved",   "frame",    "regs",     "mask",
        "mmap-entry", "mmap", "written", "mprotect", "call",    "created",  "home",
        "restored", "detached", "worked", "memfd",  "filled",   "ready",    "running",
    };
    return step < TM_STEPS ? names[step] : "?";
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
        if (step >= TM_STEP_SEIZED && step <= TM_STEP_DETACHED)
            kill(getppid(), SIGKILL);
        kill(getpid(), SIGKILL);
    } else if (strcmp(what, "kill") == 0) {
        kill(target, SIGKILL);
    } else if (strcmp(what, "stop") == 0) {
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
}
