// SPDX-License-Identifier: MIT
/* The process that owns ptrace. Everything but tm_inject_work runs in it; it ends with _exit and
 * prints nothing. */
#include "injector/inject_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "injector/errors.h"
#include "injector/inject_place.h"
#include "injector/inject_seccomp.h"
#include "injector/inject_step.h"
#include "inspect/memory.h"
#include "inspect/process.h"

#define NS_PER_MS 1000000ull
#define STOP_BOUND_NS (300 * NS_PER_MS) /* for one thread to stop */
#define STOP_BOUND_BUSY 100u            /* times that, while it is ready and gets no processor */
#define CALL_BOUND_NS (10000 * NS_PER_MS)
#define LAND_BOUND_NS (1000 * NS_PER_MS) /* malloc is left within microseconds */
#define MAX_WORKERS 8
#define MAX_STUCK 8
#define MIN_STOPS 64u
#define STEP_OUT_STOPS 16u /* stops without a safe point, after which a thread is caught */
#define SEARCH_BUSY 10u    /* times the bound of the search, until there were so many */

struct worker {
    const struct tm_work *work;
    struct tm_work_report *report; /* shared with tm-attach */
    pid_t stuck[MAX_STUCK];
    unsigned stuck_count;
    int mem_fd;
    GArray *frames;
    uint64_t place_addr; /* for the block */
    uint64_t deadline_ns;
    bool nothing_to_stop; /* no thread that could be tried when last looked */
    bool step_out;        /* no more looking only: catch a thread on its way out of an allocator */
};

struct candidate {
    pid_t tid;
    unsigned rank; /* lower is better */
};

/* Where a thread sleeps, as the kernel shows it of one that is not stopped. */
struct sleep {
    long number; /* of the system call; -1 where it is in none, or runs */
    uint64_t sp, pc;
};

static bool read_sleep(pid_t pid, pid_t tid, struct sleep *ret)
{
    char path[96], text[256];
    *ret = (struct sleep){.number = -1};
    snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", (int)pid, (int)tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    if (sscanf(text, "%ld %*x %*x %*x %*x %*x %*x %lx %lx", &ret->number, &ret->sp, &ret->pc) == 3)
        return true;
    ret->number = -1;
    return sscanf(text, "-1 %lx %lx", &ret->sp, &ret->pc) == 2;
}

/* Sleeping threads stop at once and are where they say; those that run may be anywhere; calls
 * that end with EINTR after a stop are disturbed only where there is no other thread. */
static bool rank_thread(const struct worker *self, pid_t tid, struct candidate *ret)
{
    for (unsigned i = 0; i < self->stuck_count; i++) {
        if (self->stuck[i] == tid)
            return false;
    }
    ret->tid = tid;
    switch (tm_process_thread_state(self->work->pid, tid)) {
    case 'S': {
        struct sleep sleep;
        read_sleep(self->work->pid, tid, &sleep);
        if (self->work->leader_first && tid == self->work->pid)
            ret->rank = 0;
        else
            ret->rank = sleep.number < 0 ? 1 : tm_arch_syscall_is_fragile(sleep.number) ? 3 : 0;
        return true;
    }
    case 'R':
        ret->rank = 2;
        return true;
    case 'T':
        ret->rank = 1;
        return true;
    default: /* D does not stop; Z and X are no more; t is traced by somebody */
        return false;
    }
}

static int compare_candidates(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    return a->tid < b->tid ? -1 : a->tid > b->tid;
}

static GArray *list_candidates(const struct worker *self)
{
    g_autoptr(GArray) tids = tm_process_threads(self->work->pid, NULL);
    GArray *found = g_array_new(FALSE, FALSE, sizeof(struct candidate));
    for (unsigned i = 0; tids != NULL && i < tids->len; i++) {
        struct candidate candidate;
        if (rank_thread(self, g_array_index(tids, pid_t, i), &candidate))
            g_array_append_val(found, candidate);
    }
    if (found->len > 0)
        qsort(found->data, found->len, sizeof(struct candidate), compare_candidates);
    return found;
}

/* How long a thread and this process were ready to run without a processor, since they began: the
 * second number of schedstat. 0 where the kernel does not count it. */
static uint64_t waited_ns(pid_t tid)
{
    uint64_t sum_ns = 0;
    const pid_t tids[2] = {tid, getpid()};
    for (int i = 0; i < 2; i++) {
        char path[64], text[96];
        unsigned long long waited = 0;
        snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)tids[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
        text[n > 0 ? n : 0] = '\0';
        if (sscanf(text, "%*u %llu", &waited) == 1)
            sum_ns += waited;
        if (fd >= 0)
            close(fd);
    }
    return sum_ns;
}

static void count_stop(struct worker *self, const struct tm_tracee *tracee,
                       uint64_t waited_before_ns)
{
    uint64_t stop_ns = tm_tracee_now_ns() - tracee->interrupted_ns;
    self->report->stops++;
    self->report->total_stop_ns += stop_ns;
    if (stop_ns <= self->report->worst_stop_ns)
        return;
    uint64_t now_ns = waited_ns(tracee->tid);
    self->report->worst_stop_ns = stop_ns;
    uint64_t waited = now_ns > waited_before_ns ? now_ns - waited_before_ns : 0;
    self->report->worst_wait_ns = MIN(waited, stop_ns);
}

static enum tm_verdict judge(struct worker *self, const uint64_t dwarf_regs[TM_ARCH_DWARF_REGS],
                             long in_syscall)
{
    tm_unwinder_forget_memory(self->work->unwinder);
    bool complete = tm_unwinder_walk(self->work->unwinder, dwarf_regs, self->frames);
    return tm_inject_judge(self->work->unwinder, self->frames, complete, in_syscall);
}

static enum tm_verdict judge_regs(struct worker *self, const struct user_regs_struct *regs)
{
    uint64_t dwarf_regs[TM_ARCH_DWARF_REGS];
    tm_arch_dwarf_regs(regs, dwarf_regs);
    return judge(self, dwarf_regs, tm_arch_syscall_number(regs));
}

/* The stack of a thread that sleeps is there to be read before the thread is stopped. Nothing is
 * concluded from it, it may wake at any moment; but all that the walk needs is worked out, and in
 * memory, when it is done again. */
static void rehearse(struct worker *self, pid_t tid)
{
    uint64_t dwarf_regs[TM_ARCH_DWARF_REGS] = {0};
    struct sleep sleep;
    if (!read_sleep(self->work->pid, tid, &sleep))
        return;
    dwarf_regs[TM_ARCH_DWARF_SP] = sleep.sp;
    dwarf_regs[TM_ARCH_DWARF_PC] = sleep.pc;
    judge(self, dwarf_regs, sleep.number);
}

static enum tm_work_result call_result(struct worker *self, const struct tm_call *call,
                                       enum tm_call_result result)
{
    self->report->block_addr = call->block_addr;
    self->report->error_number = call->error_number;
    switch (result) {
    case TM_CALL_DONE:
        return TM_WORK_DONE;
    case TM_CALL_RESOURCE:
        return TM_WORK_RESOURCE;
    case TM_CALL_STUCK:
        return TM_WORK_STUCK_CALL;
    case TM_CALL_CRASHED:
        return TM_WORK_CRASHED;
    default:
        return TM_WORK_NO_SAFE_POINT;
    }
}

static struct tm_call make_call(const struct worker *self, const struct user_regs_struct *regs)
{
    const struct tm_map *stack = tm_maps_find(self->work->modules->maps, regs->rsp);
    return (struct tm_call){.pid = self->work->modules->pid,
                            .mem_fd = self->mem_fd,
                            .libc = self->work->libc,
                            .data = self->work->data,
                            .keep_syscall = self->work->keep_syscall,
                            .stack_grows = stack != NULL && strcmp(stack->path, "[stack]") == 0,
                            .place_addr = self->place_addr,
                            .deadline_ns = tm_tracee_now_ns() + CALL_BOUND_NS};
}

static enum tm_work_result borrow(struct worker *self, struct tm_tracee *tracee,
                                  const struct user_regs_struct *regs)
{
    struct tm_call call = make_call(self, regs);
    self->report->tid = tracee->tid;
    enum tm_call_result result = tm_call_create_thread(&call, tracee);
    return call_result(self, &call, result);
}

/* A thread that sleeps uninterruptibly may stop in years. One that is ready to run stops as soon as
 * it gets a processor, and is not held up meanwhile. */
static enum tm_stop stop_thread(struct worker *self, struct tm_tracee *tracee)
{
    enum tm_stop stop = tm_tracee_interrupt(tracee, tm_tracee_now_ns() + STOP_BOUND_NS);
    for (unsigned i = 1; i < STOP_BOUND_BUSY && stop == TM_STOP_NONE &&
                         tm_process_thread_state(self->work->pid, tracee->tid) == 'R';
         i++)
        stop = tm_tracee_wait_for_event(tracee, tm_tracee_now_ns() + STOP_BOUND_NS);
    if (stop == TM_STOP_EVENT)
        tracee->traps_count = tm_tracee_pending_traps(tracee);
    return stop;
}

static void let_go(struct worker *self, struct tm_tracee *tracee, uint64_t waited_before_ns)
{
    tm_tracee_swallow_traps(tracee, tracee->traps_count, tm_tracee_now_ns() + STOP_BOUND_NS);
    tm_tracee_detach(tracee);
    count_stop(self, tracee, waited_before_ns);
    tm_step(TM_STEP_DETACHED, self->work->pid);
}

/* The thread, stopped inside an allocator, is let go in here. */
static enum tm_work_result step_out(struct worker *self, struct tm_tracee *tracee,
                                    const struct user_regs_struct *regs, uint64_t waited_before_ns)
{
    struct tm_call call = make_call(self, regs);
    struct tm_process thread;
    /* A shadow stack (Linux 6.6) knows the return address, too. */
    if (!tm_process_read(tracee->tid, &thread, NULL) || thread.shadow_stack ||
        !tm_landing_find(self->work->unwinder, self->frames, &call.landing)) {
        let_go(self, tracee, waited_before_ns);
        return TM_WORK_NO_SAFE_POINT;
    }
    call.ns_tid = thread.ns_tid;
    self->report->tid = tracee->tid;
    enum tm_call_result result = tm_call_hook_return(&call, tracee);
    let_go(self, tracee, waited_before_ns);
    if (result != TM_CALL_DONE)
        return call_result(self, &call, result);
    call.deadline_ns = tm_tracee_now_ns() + LAND_BOUND_NS;
    result = tm_call_wait_landed(&call);
    for (int i = 0; i < 10 && result == TM_CALL_STUCK; i++) {
        if (tm_tracee_seize(tracee, tracee->tid) != 0 || stop_thread(self, tracee) != TM_STOP_EVENT)
            break;
        result = tm_call_unhook_return(&call, tracee);
        let_go(self, tracee, waited_before_ns);
        call.deadline_ns = tm_tracee_now_ns() + LAND_BOUND_NS;
        if (result == TM_CALL_STUCK)
            result = tm_call_wait_landed(&call);
    }
    return call_result(self, &call, result);
}

/* Whether pid still is the process that was looked at, and has not called exec: our descriptor is
 * of the memory that it had then. A thread that is seized keeps its number. */
static bool is_the_same(const struct worker *self)
{
    struct tm_process process;
    char byte;
    return tm_process_read(self->work->pid, &process, NULL) &&
           process.start_ticks == self->work->start_ticks &&
           pread(self->mem_fd, &byte, 1, (off_t)self->work->libc->restorer_addr) == 1;
}

/* TM_WORK_NO_SAFE_POINT: this thread is none, on to the next. */
static enum tm_work_result try_thread(struct worker *self, pid_t tid)
{
    struct tm_tracee tracee;
    rehearse(self, tid);
    int rc = tm_tracee_seize(&tracee, tid);
    if (rc == -EPERM) {
        /* Zombies are refused with EPERM too. */
        char state = tm_process_thread_state(self->work->pid, tid);
        if (state == 0 || state == 'Z' || state == 'X')
            return TM_WORK_NO_SAFE_POINT;
        self->report->tid = tid;
        self->report->error_number = -rc;
        return TM_WORK_REFUSED;
    }
    if (rc != 0)
        return TM_WORK_NO_SAFE_POINT;
    if (!is_the_same(self))
        return TM_WORK_GONE;
    tm_step(TM_STEP_SEIZED, self->work->pid);
    uint64_t waited_before_ns = waited_ns(tid);
    enum tm_stop stop = stop_thread(self, &tracee);
    if (stop == TM_STOP_NONE) {
        self->report->tid = tid;
        return TM_WORK_STUCK_THREAD;
    }
    if (stop == TM_STOP_GONE)
        return TM_WORK_NO_SAFE_POINT;
    tm_step(TM_STEP_STOPPED, self->work->pid);
    enum tm_work_result result = TM_WORK_NO_SAFE_POINT;
    struct user_regs_struct regs;
    if (tm_arch_get_regs(tid, &regs) == 0 &&
        (!tm_arch_restart_fragile(&regs, self->work->restart) ||
         tm_arch_set_regs(tid, &regs) == 0)) {
        enum tm_verdict verdict = judge_regs(self, &regs);
        self->report->verdicts[verdict]++;
        long number = -1;
        if (verdict == TM_VERDICT_SAFE && self->work->keep_syscall &&
            !tm_seccomp_allows(tid, &number)) {
            self->report->error_number = (int)number;
            result = TM_WORK_SECCOMP;
        } else if (verdict == TM_VERDICT_SAFE && !self->work->step_out_only) {
            result = borrow(self, &tracee, &regs);
        } else if ((verdict == TM_VERDICT_LIBC || verdict == TM_VERDICT_MALLOC) && self->step_out) {
            return step_out(self, &tracee, &regs, waited_before_ns);
        }
    }
    let_go(self, &tracee, waited_before_ns);
    return result;
}

/* A program that allocates all the time must not be met at the same phase of its loop again. */
static void pause_with_jitter(void)
{
    struct timespec pause = {0, 200000 + g_random_int_range(0, 2000000)};
    nanosleep(&pause, NULL);
}

/* On a machine so busy that a single look takes as long as the search may, some looks are made. */
static bool is_over(const struct worker *self)
{
    uint64_t now_ns = tm_tracee_now_ns();
    bool enough = self->report->stops >= MIN_STOPS || self->nothing_to_stop;
    return now_ns >= self->deadline_ns + (SEARCH_BUSY - 1) * self->work->search_ns ||
           (now_ns >= self->deadline_ns && enough);
}

/* Whether to look on. A program that does little but allocate is not stopped for long again and
 * again: soon a thread is caught on its way out. Not under seccomp filters, where that would make
 * system calls of its own. */
static bool go_on(struct worker *self)
{
    bool over = is_over(self);
    if (!self->step_out && !self->work->keep_syscall &&
        (over || self->report->stops >= STEP_OUT_STOPS)) {
        self->step_out = true;
        self->deadline_ns = MAX(self->deadline_ns, tm_tracee_now_ns() + self->work->search_ns);
        return true;
    }
    return !over;
}

static enum tm_work_result search(struct worker *self)
{
    self->step_out = self->work->step_out_only;
    do {
        g_autoptr(GArray) candidates = list_candidates(self);
        self->nothing_to_stop = candidates->len == 0;
        for (unsigned i = 0; i < candidates->len; i++) {
            enum tm_work_result result =
                try_thread(self, g_array_index(candidates, struct candidate, i).tid);
            if (result != TM_WORK_NO_SAFE_POINT)
                return result;
            if (!go_on(self))
                break;
        }
        struct tm_process process;
        if (!tm_process_read(self->work->pid, &process, NULL) || tm_process_has_ended(&process))
            return TM_WORK_GONE;
        pause_with_jitter();
    } while (go_on(self));
    return TM_WORK_NO_SAFE_POINT;
}

/* No signal that a user or a terminal sends may end the worker while a thread is stopped. */
static void shield_from_signals(void)
{
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGCHLD, SIG_DFL);
    setsid();
    /* Whoever is stopped waits for this process: on a busy machine it must not wait for its turn.
     * It works for milliseconds and sleeps in between. Not permitted to everybody, and then done
     * without. */
    if (sched_setscheduler(0, SCHED_RR, &(struct sched_param){.sched_priority = 1}) != 0)
        setpriority(PRIO_PROCESS, 0, -20);
    tm_tracee_init_process();
}

static G_GNUC_NORETURN void run_worker(struct worker *self)
{
    shield_from_signals();
    self->frames = g_array_new(FALSE, FALSE, sizeof(struct tm_frame));
    self->report->result = TM_WORK_UNFINISHED;
    tm_unwinder_load(self->work->unwinder);
    enum tm_work_result result = search(self);
    /* Published last: tm-attach reads the report after the worker's end. */
    self->report->result = result;
    _exit(0);
}

static bool start_worker(struct worker *self, GError **error)
{
    pid_t child = fork();
    if (child == 0)
        run_worker(self);
    if (child < 0) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_RESOURCE,
                    "cannot fork: %s; try again when the system has room for a process",
                    g_strerror(errno));
        return false;
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return true;
}

bool tm_inject_work(const struct tm_work *work, struct tm_work_report *ret, GError **error)
{
    struct worker self = {.work = work, .place_addr = tm_place_find(work->modules->maps)};
    self.mem_fd = tm_memory_open(work->modules->pid);
    self.report =
        mmap(NULL, sizeof(*self.report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (self.report == MAP_FAILED || self.mem_fd < 0) {
        int number = self.mem_fd < 0 ? -self.mem_fd : errno;
        g_set_error(error, TM_ATTACH_ERROR,
                    number == EACCES || number == EPERM   ? TM_ATTACH_ERROR_CAPABILITY
                    : number == ENOENT || number == ESRCH ? TM_ATTACH_ERROR_DIED
                                                          : TM_ATTACH_ERROR_RESOURCE,
                    "cannot open the memory of process %d: %s", (int)work->pid, g_strerror(number));
        if (self.report != MAP_FAILED)
            munmap(self.report, sizeof(*self.report));
        return false;
    }
    self.deadline_ns = tm_tracee_now_ns() + work->search_ns;
    bool started = true;
    for (unsigned i = 0; i < MAX_WORKERS && started; i++) {
        started = start_worker(&self, error);
        if (self.report->result != TM_WORK_STUCK_THREAD || self.stuck_count == MAX_STUCK)
            break;
        self.stuck[self.stuck_count++] = self.report->tid;
    }
    if (started)
        *ret = *self.report;
    munmap(self.report, sizeof(*self.report));
    close(self.mem_fd);
    return started;
}

/* From the end of one system call to that of the next. */
static bool next_syscall_end(struct tm_tracee *held, uint64_t deadline_ns)
{
    int signal = 0;
    for (int ends = 0; ends < 2;) {
        if (tm_tracee_continue_to_syscall(held, signal) != 0)
            return false;
        enum tm_stop stop = tm_tracee_wait(held, deadline_ns);
        if (stop == TM_STOP_NONE || stop == TM_STOP_GONE)
            return false;
        signal = stop == TM_STOP_SIGNAL ? held->signal : 0;
        ends += stop == TM_STOP_SYSCALL;
    }
    return true;
}

bool tm_inject_work_held(const struct tm_work *work, struct tm_tracee *held,
                         struct tm_work_report *ret)
{
    struct worker self = {.work = work,
                          .report = ret,
                          .mem_fd = tm_memory_open(work->pid),
                          .place_addr = tm_place_find(work->modules->maps)};
    g_autoptr(GArray) frames = g_array_new(FALSE, FALSE, sizeof(struct tm_frame));
    uint64_t deadline_ns = tm_tracee_now_ns() + work->search_ns;
    struct user_regs_struct regs;
    self.frames = frames;
    ret->result = TM_WORK_NO_SAFE_POINT;
    do {
        held->interrupted_ns = tm_tracee_now_ns();
        if (self.mem_fd < 0 || tm_arch_get_regs(held->tid, &regs) != 0)
            break;
        if (judge_regs(&self, &regs) == TM_VERDICT_SAFE) {
            ret->result = borrow(&self, held, &regs);
            count_stop(&self, held, waited_ns(held->tid));
            break;
        }
    } while (next_syscall_end(held, deadline_ns));
    if (self.mem_fd >= 0)
        close(self.mem_fd);
    return ret->result != TM_WORK_NO_SAFE_POINT;
}
