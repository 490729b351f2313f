// SPDX-License-Identifier: MIT
/* The first system call that is made from libc, and not from the dynamic linker, is where all
 * libraries are mapped and the program's own code has hardly run. Runs in tm-attach. */
#include "injector/hold.h"

#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "format/boot.h"
#include "injector/arch.h"
#include "injector/inject_tracee.h"
#include "inspect/process.h"
#include "inspect/python.h"

#define NS_PER_US 1000u
#define NS_PER_MS 1000000u
/* The dynamic linker makes some system calls for each library. A program without a libc makes all
 * of its own elsewhere. */
#define MAX_LOOKS 3000u
#define STEP_NS 200000
#define LOAD_NS (3000ull * NS_PER_MS)
#define POLL_REST_NS (1ull * NS_PER_MS) /* in which the agent sees that there is an interpreter */
#define REST_NS (10ull * NS_PER_MS)     /* in which it takes the GIL, or asks for it */
#define BUSY_NS (200ull * NS_PER_MS)    /* more, where it is ready and has no processor */
#define RELEASE_TRIES 60
#define RELEASE_BOUND_NS (1000ull * NS_PER_MS)

enum { GO_ON_NOW = 1 };

struct tm_hold {
    struct tm_tracee tracee;
    bool traced;
    bool stopped;
    bool released;          /* once: it may be anywhere since, inside malloc or the loader, too */
    uint64_t load_until_ns; /* while the payload is loaded it does not move at all */
    bool given_up;          /* it cannot be traced again */
    uint64_t go_on_at_ns;   /* until when it rests at this system call; 0: not decided */
    uint32_t rest_phase;    /* enum tm_boot_phase when that was decided */
    int signal;             /* that stopped it, to be passed on */
};

tm_hold *tm_hold_new(pid_t child)
{
    tm_hold *self = g_new0(tm_hold, 1);
    tm_tracee_init_process();
    if (tm_tracee_seize_through_exec(&self->tracee, child) != 0) {
        g_free(self);
        return NULL;
    }
    self->traced = true;
    return self;
}

static bool is_in_libc(pid_t pid)
{
    struct user_regs_struct regs;
    if (tm_arch_get_regs(pid, &regs) != 0)
        return false;
    g_autoptr(tm_maps) maps = tm_maps_read(pid, NULL);
    const struct tm_map *map = maps != NULL ? tm_maps_find(maps, regs.rip) : NULL;
    const char *slash = map != NULL ? strrchr(map->path, '/') : NULL;
    return slash != NULL &&
           (g_str_has_prefix(slash, "/libc.") || g_str_has_prefix(slash, "/libc-"));
}

static bool is_python(pid_t pid)
{
    struct tm_python python;
    g_autoptr(tm_modules) modules = tm_modules_read(pid, NULL);
    if (modules == NULL)
        return false;
    tm_python_find(modules, &python);
    return python.kind == TM_PYTHON_CPYTHON;
}

/* The next stop; signals and group stops on the way are passed on. NONE: the time is over. */
static enum tm_stop next_stop(tm_hold *self, bool at_syscalls, uint64_t deadline_ns)
{
    for (;;) {
        int rc = at_syscalls ? tm_tracee_continue_to_syscall(&self->tracee, self->signal)
                             : tm_tracee_continue(&self->tracee, self->signal);
        self->signal = 0;
        self->stopped = false;
        if (rc != 0)
            return TM_STOP_GONE;
        enum tm_stop stop = tm_tracee_wait(&self->tracee, deadline_ns);
        self->stopped = stop != TM_STOP_NONE && stop != TM_STOP_GONE;
        self->traced = stop != TM_STOP_GONE;
        if (stop == TM_STOP_SIGNAL)
            self->signal = self->tracee.signal;
        else if (stop != TM_STOP_EVENT)
            return stop;
    }
}

bool tm_hold_at_python(tm_hold *hold, gint64 deadline_us)
{
    uint64_t deadline_ns = (uint64_t)deadline_us * NS_PER_US;
    enum tm_stop stop = tm_tracee_wait(&hold->tracee, deadline_ns);
    hold->stopped = stop != TM_STOP_NONE && stop != TM_STOP_GONE;
    hold->traced = stop != TM_STOP_GONE;
    bool look = true;
    unsigned looks_left = MAX_LOOKS;
    while (hold->stopped) {
        if (stop == TM_STOP_EXEC) {
            look = true;
            looks_left = MAX_LOOKS;
        }
        if (stop == TM_STOP_SYSCALL && look && is_in_libc(hold->tracee.tid)) {
            look = !is_python(hold->tracee.tid);
            /* From the call's beginning to its end. */
            if (!look && next_stop(hold, true, deadline_ns) == TM_STOP_SYSCALL)
                return true;
            if (!look)
                break;
            look = false;
        }
        if (looks_left-- == 0)
            look = false;
        stop = next_stop(hold, look, deadline_ns);
    }
    tm_hold_release(hold);
    return false;
}

struct tm_tracee *tm_hold_get_tracee(tm_hold *hold)
{
    return hold != NULL && hold->traced && hold->stopped ? &hold->tracee : NULL;
}

bool tm_hold_has_ended(const tm_hold *hold, int *ret_status)
{
    if (hold->tracee.end_status == -1)
        return false;
    *ret_status = hold->tracee.end_status;
    return true;
}

static bool detach(tm_hold *self)
{
    return ptrace(PTRACE_DETACH, self->tracee.tid, NULL, (void *)(long)self->signal) == 0;
}

void tm_hold_release(void *hold)
{
    tm_hold *self = hold;
    if (self == NULL || !self->traced)
        return;
    /* It may run: where it was borrowed and did not come back in time. Traced for good it would
     * stand at its next system call. */
    enum tm_stop stop = detach(self) ? TM_STOP_GONE : TM_STOP_NONE;
    for (int i = 0; i < RELEASE_TRIES && stop == TM_STOP_NONE; i++)
        stop = tm_tracee_interrupt(&self->tracee, tm_tracee_now_ns() + RELEASE_BOUND_NS);
    if (stop != TM_STOP_GONE)
        detach(self);
    self->traced = false;
    self->stopped = false;
    self->released = true;
}

static bool take_again(tm_hold *self)
{
    if (self->given_up || self->tracee.end_status != -1)
        return false;
    pid_t tid = self->tracee.tid;
    self->given_up = tm_tracee_seize(&self->tracee, tid) != 0;
    self->traced = !self->given_up;
    if (self->traced)
        ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
    return self->traced;
}

/* Whether a thread of ours has something to do, and only waits for a processor. */
static bool others_are_ready(const tm_hold *self)
{
    g_autoptr(GArray) threads = tm_process_threads(self->tracee.tid, NULL);
    for (guint i = 0; threads != NULL && i < threads->len; i++) {
        pid_t tid = g_array_index(threads, pid_t, i);
        if (tid != self->tracee.tid && tm_process_thread_state(self->tracee.tid, tid) == 'R')
            return true;
    }
    return false;
}

static bool must_rest(const tm_hold *self, uint64_t now_ns)
{
    if (now_ns < self->go_on_at_ns)
        return true;
    return self->go_on_at_ns != GO_ON_NOW && now_ns < self->go_on_at_ns + BUSY_NS &&
           others_are_ready(self);
}

void tm_hold_step(void *hold, uint32_t boot_phase)
{
    tm_hold *self = hold;
    uint64_t now_ns = tm_tracee_now_ns();
    if (self == NULL || (!self->traced && !take_again(self))) {
        nanosleep(&(struct timespec){0, STEP_NS}, NULL);
        return;
    }
    if (!self->stopped) {
        enum tm_stop stop = tm_tracee_wait(&self->tracee, now_ns + STEP_NS);
        self->stopped = stop != TM_STOP_NONE && stop != TM_STOP_GONE;
        self->traced = stop != TM_STOP_GONE;
        self->signal = stop == TM_STOP_SIGNAL ? self->tracee.signal : 0;
        self->go_on_at_ns = stop == TM_STOP_SYSCALL ? 0 : GO_ON_NOW;
    }
    if (!self->stopped)
        return;
    if (self->load_until_ns == 0)
        self->load_until_ns = now_ns + LOAD_NS;
    if (boot_phase < TM_BOOT_STARTED && !self->released && now_ns < self->load_until_ns) {
        nanosleep(&(struct timespec){0, STEP_NS}, NULL);
        return;
    }
    if (self->go_on_at_ns == 0) {
        self->go_on_at_ns = now_ns + (boot_phase < TM_BOOT_WAIT_GIL ? POLL_REST_NS : REST_NS);
    } else if (self->go_on_at_ns != GO_ON_NOW && self->rest_phase != boot_phase) {
        /* It has seen the interpreter while this rest lasted: now it goes for the GIL. */
        self->go_on_at_ns = now_ns + REST_NS;
    }
    self->rest_phase = boot_phase;
    if (must_rest(self, now_ns)) {
        nanosleep(&(struct timespec){0, STEP_NS}, NULL);
        return;
    }
    self->stopped = false;
    self->go_on_at_ns = 0;
    tm_tracee_continue_to_syscall(&self->tracee, self->signal);
    self->signal = 0;
}

void tm_hold_rest(void *hold)
{
    tm_hold_step(hold, TM_BOOT_RUNNING);
}

void tm_hold_free(tm_hold *hold)
{
    tm_hold_release(hold);
    g_free(hold);
}
