// SPDX-License-Identifier: MIT
/*
 * One traced thread. PTRACE_SEIZE without PTRACE_O_EXITKILL: when the worker dies, the kernel
 * lets the thread go, and whatever state it was given must be one that it can live with.
 */
#include "injector/inject_tracee.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#define NS_PER_S 1000000000ull
#define MAX_PENDING 32
#define EVENT_OF(status) ((unsigned)(status) >> 16)

void tm_tracee_init_process(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

uint64_t tm_tracee_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static int seize(struct tm_tracee *tracee, pid_t tid, long options)
{
    *tracee = (struct tm_tracee){.tid = tid, .end_status = -1};
    return ptrace(PTRACE_SEIZE, tid, NULL, (void *)options) != 0 ? -errno : 0;
}

int tm_tracee_seize(struct tm_tracee *tracee, pid_t tid)
{
    return seize(tracee, tid, PTRACE_O_TRACESYSGOOD);
}

int tm_tracee_seize_through_exec(struct tm_tracee *tracee, pid_t tid)
{
    return seize(tracee, tid, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC);
}

static enum tm_stop classify(struct tm_tracee *tracee, int status)
{
    if (!WIFSTOPPED(status)) {
        tracee->end_status = status;
        return TM_STOP_GONE;
    }
    if (EVENT_OF(status) == PTRACE_EVENT_STOP)
        return TM_STOP_EVENT;
    if (EVENT_OF(status) == PTRACE_EVENT_EXEC)
        return TM_STOP_EXEC;
    if (WSTOPSIG(status) == (SIGTRAP | 0x80))
        return TM_STOP_SYSCALL;
    tracee->signal = WSTOPSIG(status);
    return TM_STOP_SIGNAL;
}

/* SIGCHLD is blocked: sigtimedwait takes it, or comes back when the time is over. One SIGCHLD may
 * stand for several stops, so waitpid is asked before and after. */
enum tm_stop tm_tracee_wait(struct tm_tracee *tracee, uint64_t deadline_ns)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (;;) {
        int status = 0;
        pid_t got = waitpid(tracee->tid, &status, __WALL | WNOHANG);
        if (got == tracee->tid)
            return classify(tracee, status);
        if (got < 0 && errno != EINTR)
            return TM_STOP_GONE;
        uint64_t now_ns = tm_tracee_now_ns();
        if (now_ns >= deadline_ns)
            return TM_STOP_NONE;
        uint64_t left_ns = deadline_ns - now_ns;
        /* An exec in another thread can take a tracee away without a SIGCHLD for it. */
        if (left_ns > 20000000)
            left_ns = 20000000;
        struct timespec timeout = {0, (long)left_ns};
        sigtimedwait(&set, NULL, &timeout);
    }
}

int tm_tracee_continue_to_syscall(struct tm_tracee *tracee, int signal)
{
    return ptrace(PTRACE_SYSCALL, tracee->tid, NULL, (void *)(long)signal) != 0 ? -errno : 0;
}

int tm_tracee_continue(struct tm_tracee *tracee, int signal)
{
    return ptrace(PTRACE_CONT, tracee->tid, NULL, (void *)(long)signal) != 0 ? -errno : 0;
}

enum tm_stop tm_tracee_wait_for_event(struct tm_tracee *tracee, uint64_t deadline_ns)
{
    for (;;) {
        enum tm_stop stop = tm_tracee_wait(tracee, deadline_ns);
        if (stop != TM_STOP_SIGNAL && stop != TM_STOP_SYSCALL)
            return stop;
        int signal = stop == TM_STOP_SIGNAL ? tracee->signal : 0;
        if (tm_tracee_continue(tracee, signal) != 0)
            return TM_STOP_GONE;
    }
}

enum tm_stop tm_tracee_interrupt(struct tm_tracee *tracee, uint64_t deadline_ns)
{
    tracee->interrupted_ns = tm_tracee_now_ns();
    if (ptrace(PTRACE_INTERRUPT, tracee->tid, NULL, NULL) != 0)
        return TM_STOP_GONE;
    return tm_tracee_wait_for_event(tracee, deadline_ns);
}

enum tm_stop tm_tracee_to_event_stop(struct tm_tracee *tracee, uint64_t deadline_ns)
{
    /* Asked for while it is stopped, the event stop comes before the next instruction. */
    if (ptrace(PTRACE_INTERRUPT, tracee->tid, NULL, NULL) != 0 ||
        tm_tracee_continue(tracee, 0) != 0)
        return TM_STOP_GONE;
    return tm_tracee_wait_for_event(tracee, deadline_ns);
}

unsigned tm_tracee_pending_traps(const struct tm_tracee *tracee)
{
    struct __ptrace_peeksiginfo_args args = {.off = 0, .flags = 0, .nr = MAX_PENDING};
    siginfo_t infos[MAX_PENDING];
    unsigned count = 0;
    long n = ptrace(PTRACE_PEEKSIGINFO, tracee->tid, &args, infos);
    for (long i = 0; i < n; i++) {
        /* Above 0: by the kernel, for a step or a breakpoint. */
        if (infos[i].si_signo == SIGTRAP && infos[i].si_code > 0)
            count++;
    }
    return count;
}

void tm_tracee_swallow_traps(struct tm_tracee *tracee, unsigned keep_count, uint64_t deadline_ns)
{
    uint64_t mask = 0;
    if (tm_tracee_pending_traps(tracee) <= keep_count ||
        ptrace(PTRACE_GETSIGMASK, tracee->tid, (void *)sizeof(mask), &mask) != 0)
        return;
    /* With all others blocked, the next stop is for this one, before the next instruction. */
    uint64_t others = ~(1ull << (SIGTRAP - 1));
    ptrace(PTRACE_SETSIGMASK, tracee->tid, (void *)sizeof(others), &others);
    while (tm_tracee_pending_traps(tracee) > keep_count && tm_tracee_continue(tracee, 0) == 0 &&
           tm_tracee_wait(tracee, deadline_ns) == TM_STOP_SIGNAL)
        ;
    ptrace(PTRACE_SETSIGMASK, tracee->tid, (void *)sizeof(mask), &mask);
}

void tm_tracee_detach(struct tm_tracee *tracee)
{
    ptrace(PTRACE_DETACH, tracee->tid, NULL, NULL);
}
