// SPDX-License-Identifier: MIT
/* May a thread with this stack call pthread_create now? */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "injector/inject_unwind.h"

enum tm_verdict {
    TM_VERDICT_SAFE = 0,
    TM_VERDICT_LIBC,       /* in a libc function that is not known to hold no lock */
    TM_VERDICT_LDSO,       /* in the dynamic linker */
    TM_VERDICT_MALLOC,     /* in another allocator */
    TM_VERDICT_SIGNAL,     /* in a signal handler */
    TM_VERDICT_INCOMPLETE, /* the stack could not be walked to its end */
    TM_VERDICTS,
};

/* frames: of struct tm_frame, innermost first; complete: as tm_unwinder_walk said; in_syscall: the
 * number of the system call the thread is in, or -1. */
enum tm_verdict tm_inject_judge(tm_unwinder *unwinder, const GArray *frames, bool complete,
                                long in_syscall);
/* What to call it in a message; static. */
const char *tm_verdict_text(enum tm_verdict verdict);
/* The test for a name of libc, leading "__GI_" and underscores left aside. */
bool tm_inject_name_is_safe(const char *name, long in_syscall);
