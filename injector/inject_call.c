// SPDX-License-Identifier: MIT
/*
 * The calls on the borrowed thread. The injector may die between any two lines here, and the
 * thread must then find its own way back. So the frame for rt_sigreturn is written first, onto
 * memory that nobody uses; then the registers are set, in one system call, to a state that ends
 * in the restorer whatever happens; then signals are blocked, which the frame undoes as well. Until
 * the thread is about to enter the block, its way home leads through a munmap of it.
 *
 * The way back of an injector that lives is another: in an event stop the saved state is put back
 * verbatim, orig_rax and all, and the kernel restarts the interrupted system call as it does after
 * any stop. rt_sigreturn would lose the rest of a relative timeout.
 */
#include "injector/inject_call.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "injector/inject_step.h"
#include "inspect/memory.h"

/* The kernel leaves these two alone. */
#define ALL_SIGNALS (~0ull)
#define PARK_MS 200u        /* the thread waits that long for a worker that is late or dead */
#define PARK_POLL_NS 40000u /* a thread is made in 50 to 100 us */
#define HOME_BOUND_NS 10000000000ull /* of a thread that only waits for a processor */

struct borrowed {
    struct tm_call *call;
    struct tm_tracee *tracee;
    struct tm_arch_state saved;
    struct tm_arch_frame frame;
};

static uint64_t data_addr(const struct borrowed *self)
{
    return self->call->block_addr + TM_STUB_PAGE_BYTES;
}

/* A page that is not writable must fail here: /proc/PID/mem would write to it all the same, and
 * the kernel could not read it back. The main thread's stack may have to grow first. */
static bool write_frame(struct borrowed *self)
{
    struct iovec local = {self->frame.bytes, self->frame.n_bytes};
    struct iovec remote = {(void *)(uintptr_t)self->frame.first_addr, self->frame.n_bytes};
    if (process_vm_writev(self->call->pid, &local, 1, &remote, 1, 0) ==
        (ssize_t)self->frame.n_bytes)
        return true;
    return self->call->stack_grows && tm_memory_pwrite(self->call->mem_fd, self->frame.first_addr,
                                                       self->frame.bytes, self->frame.n_bytes) == 0;
}

/* What a stop that nobody asked for means; TM_CALL_DONE: go on with *signal. */
static enum tm_call_result judge_stop(struct borrowed *self, enum tm_stop stop, int *signal)
{
    *signal = 0;
    if (stop == TM_STOP_GONE)
        return TM_CALL_GONE;
    if (stop != TM_STOP_SIGNAL)
        return TM_CALL_DONE;
    *signal = self->tracee->signal;
    if (*signal != SIGSEGV && *signal != SIGBUS && *signal != SIGILL && *signal != SIGFPE &&
        *signal != SIGTRAP && *signal != SIGSYS)
        return TM_CALL_DONE;
    self->call->error_number = *signal;
    return TM_CALL_CRASHED;
}

/* Waits for the next system call stop. Group stops of the process do not concern this thread
 * until it is let go; no signal but SIGSTOP can come while all are blocked. */
static enum tm_call_result wait_syscall_stop(struct borrowed *self)
{
    for (;;) {
        int signal;
        enum tm_stop stop = tm_tracee_wait(self->tracee, self->call->deadline_ns);
        if (stop == TM_STOP_SYSCALL || stop == TM_STOP_NONE)
            return stop == TM_STOP_SYSCALL ? TM_CALL_DONE : TM_CALL_STUCK;
        enum tm_call_result result = judge_stop(self, stop, &signal);
        if (result != TM_CALL_DONE)
            return result;
        if (tm_tracee_continue_to_syscall(self->tracee, signal) != 0)
            return TM_CALL_GONE;
    }
}

static enum tm_call_result next_syscall_stop(struct borrowed *self)
{
    if (tm_tracee_continue_to_syscall(self->tracee, 0) != 0)
        return TM_CALL_GONE;
    return wait_syscall_stop(self);
}

/* One system call through the gadget, which returns through the word at stack_addr; the thread
 * stays in its exit stop. */
static enum tm_call_result make_syscall(struct borrowed *self, uint64_t stack_addr, long number,
                                        const uint64_t args[6], int64_t *ret)
{
    struct user_regs_struct regs;
    tm_arch_regs_for_syscall(&self->saved, stack_addr, self->call->libc->syscall_addr, number, args,
                             &regs);
    if (tm_arch_set_regs(self->tracee->tid, &regs) != 0)
        return TM_CALL_GONE;
    if (number == SYS_mmap) {
        tm_step(TM_STEP_REGS, self->call->pid);
        tm_arch_set_signal_mask(self->tracee->tid, ALL_SIGNALS);
        tm_step(TM_STEP_MASK, self->call->pid);
    }
    enum tm_call_result result = next_syscall_stop(self);
    if (number == SYS_mmap)
        tm_step(TM_STEP_MMAP_ENTRY, self->call->pid);
    if (result == TM_CALL_DONE)
        result = next_syscall_stop(self);
    if (result != TM_CALL_DONE)
        return result;
    if (tm_arch_get_regs(self->tracee->tid, &regs) != 0)
        return TM_CALL_GONE;
    *ret = (int64_t)tm_arch_result(&regs);
    return TM_CALL_DONE;
}

static enum tm_call_result map_at(struct borrowed *self, uint64_t place_addr, int64_t *ret)
{
    const int fixed = place_addr != 0 ? MAP_FIXED_NOREPLACE : 0;
    const uint64_t args[6] = {place_addr,
                              TM_STUB_BLOCK_BYTES,
                              PROT_READ | PROT_EXEC,
                              (uint64_t)(MAP_PRIVATE | MAP_ANONYMOUS | fixed),
                              (uint64_t)-1,
                              0};
    return make_syscall(self, place_addr != 0 ? self->frame.first_addr : self->frame.addr, SYS_mmap,
                        args, ret);
}

static bool is_error(int64_t result)
{
    return result < 0 && result > -4096;
}

static enum tm_call_result map_block(struct borrowed *self)
{
    struct tm_call *call = self->call;
    int64_t addr = 0;
    enum tm_call_result result = map_at(self, call->place_addr, &addr);
    /* Somebody was there first. */
    if (result == TM_CALL_DONE && call->place_addr != 0 && is_error(addr))
        result = map_at(self, 0, &addr);
    if (result != TM_CALL_DONE)
        return result;
    if (is_error(addr)) {
        call->error_number = (int)-addr;
        return TM_CALL_RESOURCE;
    }
    call->block_addr = (uint64_t)addr;
    tm_step(TM_STEP_MMAP, call->pid);
    return TM_CALL_DONE;
}

/* Where a place of the stub lies in the target. */
static uint64_t block_code(const struct tm_call *call, const uint8_t *place)
{
    return call->block_addr + (uint64_t)(place - __start_tm_stub);
}

static enum tm_call_result fill_block(struct borrowed *self)
{
    struct tm_call *call = self->call;
    struct tm_stub_data data = *call->data;
    data.boot.block_addr = call->block_addr;
    data.boot.block_bytes = TM_STUB_BLOCK_BYTES;
    data.frame_sp = tm_arch_frame_sp(&self->frame);
    data.thread_entry = block_code(call, tm_stub_thread_entry);
    data.boot.hold_forks_addr = block_code(call, (const uint8_t *)(uintptr_t)tm_stub_hold_forks);
    data.forks.prepare = block_code(call, (const uint8_t *)(uintptr_t)tm_stub_fork_prepare);
    data.forks.parent = block_code(call, (const uint8_t *)(uintptr_t)tm_stub_fork_parent);
    data.forks.child = block_code(call, (const uint8_t *)(uintptr_t)tm_stub_fork_child);
    if (tm_arch_syscall_number(&self->saved.regs) < 0)
        data.gil.fn_is_made = 0;
    data.landing_return = call->landing.return_addr;
    data.landing_tid = (uint32_t)call->ns_tid;
    data.park_ms = call->keep_syscall ? 0 : PARK_MS;
    /* /proc/PID/mem writes where the program itself could not. */
    int rc = tm_memory_pwrite(call->mem_fd, call->block_addr, __start_tm_stub,
                              (size_t)(__stop_tm_stub - __start_tm_stub));
    if (rc == 0)
        rc = tm_memory_pwrite(call->mem_fd, data_addr(self), &data, sizeof(data));
    if (rc != 0) {
        call->error_number = -rc;
        return TM_CALL_RESOURCE;
    }
    tm_step(TM_STEP_WRITTEN, call->pid);
    return TM_CALL_DONE;
}

static bool read_data(const struct borrowed *self, struct tm_stub_data *ret)
{
    struct iovec local = {ret, sizeof(*ret)};
    struct iovec remote = {(void *)(uintptr_t)data_addr(self), sizeof(*ret)};
    return process_vm_readv(self->call->pid, &local, 1, &remote, 1, 0) == (ssize_t)sizeof(*ret);
}

static enum tm_call_result enter_block(struct borrowed *self)
{
    struct tm_call *call = self->call;
    struct user_regs_struct regs;
    tm_arch_regs_for_entry(&self->saved, block_code(call, tm_stub_borrow_entry),
                           call->block_addr + TM_STUB_BLOCK_BYTES, data_addr(self), &regs);
    if (tm_arch_set_regs(self->tracee->tid, &regs) != 0)
        return TM_CALL_GONE;
    tm_step(TM_STEP_CALL, call->pid);
    return TM_CALL_DONE;
}

/* The thread runs freely, in one go, until it has parked itself: every stop that is not made here
 * is a turn of the scheduler that nobody has to wait for. */
static enum tm_call_result wait_until_parked(struct borrowed *self)
{
    struct tm_stub_data data;
    if (tm_tracee_continue(self->tracee, 0) != 0)
        return TM_CALL_GONE;
    for (;;) {
        enum tm_stop stop = tm_tracee_wait(self->tracee, tm_tracee_now_ns() + PARK_POLL_NS);
        if (stop != TM_STOP_NONE) {
            int signal;
            enum tm_call_result result = judge_stop(self, stop, &signal);
            if (result != TM_CALL_DONE)
                return result;
            if (tm_tracee_continue(self->tracee, signal) != 0)
                return TM_CALL_GONE;
        }
        /* Unreadable: it gave up waiting, and unmapped the block because it got no thread. */
        bool readable = read_data(self, &data);
        if (!readable || data.parked != 0) {
            self->call->error_number = readable ? data.create_error : EAGAIN;
            tm_step(TM_STEP_PARKED, self->call->pid);
            return self->call->error_number == 0 ? TM_CALL_DONE : TM_CALL_RESOURCE;
        }
        if (tm_tracee_now_ns() >= self->call->deadline_ns)
            return TM_CALL_STUCK;
    }
}

/*
 * Under seccomp filters nothing may be asked of the kernel but what pthread_create needs, and a
 * system call that a tracer skips is judged as number -1, which may be fatal. So there the thread
 * is followed from call to call, and rt_sigreturn is left to run and restores it from the frame.
 */
static enum tm_call_result follow_home(struct borrowed *self)
{
    struct user_regs_struct regs;
    struct tm_stub_data data;
    int create_error = -1;
    do {
        enum tm_call_result result = next_syscall_stop(self);
        if (result == TM_CALL_DONE && tm_arch_get_regs(self->tracee->tid, &regs) != 0)
            result = TM_CALL_GONE;
        if (result != TM_CALL_DONE)
            return result;
        if (read_data(self, &data))
            create_error = data.create_error;
    } while (tm_arch_syscall_number(&regs) != SYS_rt_sigreturn ||
             regs.rsp != tm_arch_frame_sp(&self->frame));
    tm_step(TM_STEP_PARKED, self->call->pid);
    enum tm_stop stop = tm_tracee_to_event_stop(self->tracee, tm_tracee_now_ns() + HOME_BOUND_NS);
    tm_step(TM_STEP_HOME, self->call->pid);
    if (stop != TM_STOP_EVENT)
        return stop == TM_STOP_GONE ? TM_CALL_GONE : TM_CALL_STUCK;
    self->call->error_number = create_error < 0 ? EPERM : create_error;
    return create_error == 0 ? TM_CALL_DONE : TM_CALL_RESOURCE;
}

/*
 * From any stop within our calls to an event stop in front of the restorer. The registers are set
 * to it with no system call pending (one that is about to begin is skipped by that), so that the
 * thread is on its way home at every moment.
 */
static enum tm_call_result stop_at_restorer(struct borrowed *self)
{
    struct user_regs_struct regs;
    tm_arch_regs_for_restorer(&self->saved, &self->frame, self->call->libc->restorer_addr, &regs);
    if (tm_arch_set_regs(self->tracee->tid, &regs) != 0)
        return TM_CALL_GONE;
    enum tm_stop stop = tm_tracee_to_event_stop(self->tracee, tm_tracee_now_ns() + HOME_BOUND_NS);
    return stop == TM_STOP_EVENT  ? TM_CALL_DONE
           : stop == TM_STOP_GONE ? TM_CALL_GONE
                                  : TM_CALL_STUCK;
}

static enum tm_call_result restore(struct borrowed *self)
{
    tm_step(TM_STEP_HOME, self->call->pid);
    if (tm_arch_restore(self->tracee->tid, &self->saved) != 0)
        return TM_CALL_GONE;
    tm_step(TM_STEP_RESTORED, self->call->pid);
    return TM_CALL_DONE;
}

/* Nothing of the block is in use, and it goes if there is one: from here on the thread does that
 * even if nobody is left to see it. */
static enum tm_call_result go_home_with_nothing(struct borrowed *self)
{
    enum tm_call_result result = TM_CALL_DONE;
    if (self->call->block_addr != 0) {
        int64_t ignored;
        const uint64_t args[6] = {self->call->block_addr, TM_STUB_BLOCK_BYTES};
        self->call->deadline_ns = tm_tracee_now_ns() + HOME_BOUND_NS;
        result = make_syscall(self, self->frame.addr, SYS_munmap, args, &ignored);
    }
    if (result == TM_CALL_DONE)
        result = stop_at_restorer(self);
    return result == TM_CALL_DONE ? restore(self) : result;
}

static bool is_in_block(const struct borrowed *self, const struct user_regs_struct *regs)
{
    return regs->rip - self->call->block_addr < TM_STUB_BLOCK_BYTES;
}

/*
 * Takes the parked thread home. First it is set to leave by itself, then the flag is set that lets
 * the new thread unmap the block one day, then its own state is put back: a worker that dies in
 * between leaves a thread that is on its way out.
 */
static enum tm_call_result go_home_from_park(struct borrowed *self)
{
    struct tm_call *call = self->call;
    struct tm_tracee *tracee = self->tracee;
    uint64_t interrupted_ns = tracee->interrupted_ns;
    enum tm_stop stop = tm_tracee_interrupt(tracee, tm_tracee_now_ns() + HOME_BOUND_NS);
    tracee->interrupted_ns = interrupted_ns;
    struct user_regs_struct regs;
    if (stop != TM_STOP_EVENT)
        return stop == TM_STOP_GONE ? TM_CALL_GONE : TM_CALL_STUCK;
    if (tm_arch_get_regs(tracee->tid, &regs) != 0)
        return TM_CALL_GONE;
    tm_step(TM_STEP_CREATED, call->pid);
    /* It may have waited long enough, and be home or in the restorer. */
    if (!is_in_block(self, &regs))
        return call->error_number == 0 ? TM_CALL_DONE : TM_CALL_RESOURCE;
    if (call->error_number != 0) {
        enum tm_call_result home = go_home_with_nothing(self);
        return home == TM_CALL_DONE ? TM_CALL_RESOURCE : home;
    }
    tm_arch_regs_for_entry(&self->saved, block_code(call, tm_stub_borrow_leave),
                           tm_arch_frame_sp(&self->frame), data_addr(self), &regs);
    const uint32_t done = 1;
    if (tm_arch_set_regs(tracee->tid, &regs) != 0 ||
        tm_memory_pwrite(call->mem_fd, data_addr(self) + offsetof(struct tm_stub_data, borrow_done),
                         &done, sizeof(done)) != 0)
        return TM_CALL_GONE;
    return restore(self);
}

/* From the thread's own state to a block that is mapped and filled, with the thread in a system
 * call's exit stop. The chosen place is known beforehand, so that the munmap of it can be on the
 * stack before it is mapped: the worker may die at any moment. It is somewhere in the largest gap,
 * where nobody else maps anything. */
static enum tm_call_result place_block(struct borrowed *self)
{
    struct tm_call *call = self->call;
    if (tm_arch_save(self->tracee->tid, &self->saved) != 0)
        return TM_CALL_GONE;
    tm_step(TM_STEP_SAVED, call->pid);
    tm_arch_build_frame(&self->saved, call->libc->restorer_addr, &self->frame);
    if (call->place_addr != 0) {
        const uint64_t args[6] = {call->place_addr, TM_STUB_BLOCK_BYTES};
        tm_arch_frame_call_first(&self->saved, call->libc->syscall_addr, SYS_munmap, args,
                                 &self->frame);
    }
    if (!write_frame(self))
        return TM_CALL_UNUSABLE;
    tm_step(TM_STEP_FRAME, call->pid);
    enum tm_call_result result = map_block(self);
    if (result == TM_CALL_DONE)
        result = fill_block(self);
    if (result != TM_CALL_RESOURCE)
        return result;
    enum tm_call_result home = go_home_with_nothing(self);
    return home == TM_CALL_DONE ? TM_CALL_RESOURCE : home;
}

enum tm_call_result tm_call_create_thread(struct tm_call *call, struct tm_tracee *tracee)
{
    static struct borrowed self; /* some 35 KiB; the worker has one thread */
    self.call = call;
    self.tracee = tracee;
    enum tm_call_result result = place_block(&self);
    if (result == TM_CALL_RESOURCE || result == TM_CALL_UNUSABLE)
        return result;
    if (result == TM_CALL_DONE)
        result = enter_block(&self);
    if (result == TM_CALL_DONE && call->keep_syscall)
        return follow_home(&self);
    if (result == TM_CALL_DONE)
        result = wait_until_parked(&self);
    if (result == TM_CALL_CRASHED) {
        enum tm_call_result home = stop_at_restorer(&self);
        return home == TM_CALL_DONE && restore(&self) == TM_CALL_DONE ? result : home;
    }
    /* A thread that is stuck in pthread_create (somebody who is stopped holds its lock) is let go
     * as it is: the frame takes it home once it gets on. */
    if (result == TM_CALL_GONE || result == TM_CALL_STUCK)
        return result;
    return go_home_from_park(&self);
}

static uint64_t land_addr(const struct tm_call *call)
{
    return block_code(call, tm_stub_land);
}

static bool write_slot(const struct tm_call *call, uint64_t value)
{
    struct iovec local = {&value, sizeof(value)};
    struct iovec remote = {(void *)(uintptr_t)call->landing.slot_addr, sizeof(value)};
    return process_vm_writev(call->pid, &local, 1, &remote, 1, 0) == (ssize_t)sizeof(value);
}

/* On the way home without the munmap, and in the same moment the address is replaced: a worker that
 * dies between the two leaves the block, and one that dies later nothing. */
static bool leave_block_for_landing(struct borrowed *self)
{
    struct tm_call *call = self->call;
    struct user_regs_struct regs;
    tm_arch_regs_for_restorer(&self->saved, &self->frame, call->libc->restorer_addr, &regs);
    return tm_arch_set_regs(self->tracee->tid, &regs) == 0 && write_slot(call, land_addr(call));
}

enum tm_call_result tm_call_hook_return(struct tm_call *call, struct tm_tracee *tracee)
{
    static struct borrowed self;
    self.call = call;
    self.tracee = tracee;
    enum tm_call_result result = place_block(&self);
    if (result != TM_CALL_DONE)
        return result;
    if (!leave_block_for_landing(&self)) {
        enum tm_call_result home = go_home_with_nothing(&self);
        return home == TM_CALL_DONE ? TM_CALL_UNUSABLE : home;
    }
    tm_step(TM_STEP_HOOKED, call->pid);
    result = stop_at_restorer(&self);
    return result == TM_CALL_DONE ? restore(&self) : result;
}

enum tm_call_result tm_call_wait_landed(struct tm_call *call)
{
    struct borrowed self = {.call = call};
    struct tm_stub_data data;
    while (read_data(&self, &data)) {
        call->error_number = data.create_error;
        if (data.parked != 0 && data.create_error == 0)
            return TM_CALL_DONE;
        if (data.parked != 0)
            return TM_CALL_RESOURCE;
        if (tm_tracee_now_ns() >= call->deadline_ns)
            return TM_CALL_STUCK;
        nanosleep(&(struct timespec){0, PARK_POLL_NS}, NULL);
    }
    return TM_CALL_GONE;
}

enum tm_call_result tm_call_unhook_return(struct tm_call *call, struct tm_tracee *tracee)
{
    static struct borrowed self;
    uint64_t value = 0;
    struct iovec local = {&value, sizeof(value)};
    struct iovec remote = {(void *)(uintptr_t)call->landing.slot_addr, sizeof(value)};
    self.call = call;
    self.tracee = tracee;
    if (tm_arch_save(tracee->tid, &self.saved) != 0)
        return TM_CALL_GONE;
    if (is_in_block(&self, &self.saved.regs) || self.saved.regs.rsp > call->landing.slot_addr ||
        process_vm_readv(call->pid, &local, 1, &remote, 1, 0) != (ssize_t)sizeof(value) ||
        value != land_addr(call) || !write_slot(call, call->landing.return_addr))
        return TM_CALL_STUCK;
    tm_arch_build_frame(&self.saved, call->libc->restorer_addr, &self.frame);
    if (!write_frame(&self))
        return TM_CALL_STUCK;
    enum tm_call_result home = go_home_with_nothing(&self);
    call->block_addr = 0;
    return home == TM_CALL_DONE ? TM_CALL_UNUSABLE : home;
}
