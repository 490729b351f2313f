// SPDX-License-Identifier: MIT
/*
 * The calls on the borrowed thread. The injector may die between any two lines here, and the
 * thread must then find its own way back. So the frame for rt_sigreturn is written first, onto
 * memory that nobody uses; then the registers are set, in one system call, to a state that ends
 * in the restorer whatever happens; then signals are blocked, which the frame undoes as well.
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

#include "injector/inject_step.h"
#include "inspect/memory.h"

/* The kernel leaves these two alone. */
#define ALL_SIGNALS (~0ull)

struct borrowed {
    struct tm_call *call;
    struct tm_tracee *tracee;
    struct tm_arch_state saved;
    struct tm_arch_frame frame;
};

/* A page that is not writable must fail here: /proc/PID/mem would write to it all the same, and
 * the kernel could not read it back. The main thread's stack may have to grow first. */
static bool write_frame(struct borrowed *self)
{
    struct iovec local = {self->frame.bytes, self->frame.n_bytes};
    struct iovec remote = {(void *)(uintptr_t)self->frame.addr, self->frame.n_bytes};
    if (process_vm_writev(self->call->pid, &local, 1, &remote, 1, 0) ==
        (ssize_t)self->frame.n_bytes)
        return true;
    return self->call->stack_grows && tm_memory_pwrite(self->call->mem_fd, self->frame.addr,
                                                       self->frame.bytes,
                                                       self->frame.n_bytes) == 0;
}

/* Waits for the next system call stop. Group stops of the process do not concern this thread
 * until it is let go; no signal but SIGSTOP can come while all are blocked. */
static enum tm_call_result wait_syscall_stop(struct borrowed *self)
{
    for (;;) {
        int signal = 0;
        switch (tm_tracee_wait(self->tracee, self->call->deadline_ns)) {
        case TM_STOP_SYSCALL:
            return TM_CALL_DONE;
        case TM_STOP_EVENT:
            break;
        case TM_STOP_SIGNAL:
            signal = self->tracee->signal;
            if (signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE ||
                signal == SIGTRAP || signal == SIGSYS) {
                self->call->error_number = signal;
                return TM_CALL_CRASHED;
            }
            break;
        case TM_STOP_NONE:
            return TM_CALL_STUCK;
        case TM_STOP_GONE:
            return TM_CALL_GONE;
        }
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

/* One system call through the gadget; the thread stays in its exit stop. */
static enum tm_call_result make_syscall(struct borrowed *self, long number, const uint64_t args[6],
                                        int64_t *ret)
{
    struct user_regs_struct regs;
    tm_arch_regs_for_syscall(&self->saved, &self->frame, self->call->libc->syscall_addr, number,
                             args, &regs);
    if (tm_arch_set_regs(self->tracee->tid, &regs) != 0)
        return TM_CALL_GONE;
    if (number == SYS_mprotect)
        tm_step(TM_STEP_WRITTEN, self->call->pid);
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

static enum tm_call_result map_block(struct borrowed *self)
{
    struct tm_call *call = self->call;
    int64_t addr = 0;
    const uint64_t args[6] = {0, TM_STUB_BLOCK_BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0};
    enum tm_call_result result = make_syscall(self, SYS_mmap, args, &addr);
    if (result != TM_CALL_DONE)
        return result;
    if (addr < 0 && addr > -4096) {
        call->error_number = (int)-addr;
        return TM_CALL_RESOURCE;
    }
    call->block_addr = (uint64_t)addr;
    tm_step(TM_STEP_MMAP, call->pid);
    return TM_CALL_DONE;
}

static enum tm_call_result fill_block(struct borrowed *self)
{
    struct tm_call *call = self->call;
    struct tm_stub_data data = *call->data;
    data.boot.block_addr = call->block_addr;
    data.boot.block_bytes = TM_STUB_BLOCK_BYTES;
    data.frame_sp = tm_arch_frame_sp(&self->frame);
    data.thread_entry =
        call->block_addr + (uint64_t)(tm_stub_thread_entry - __start_tm_stub);
    if (tm_memory_pwrite(call->mem_fd, call->block_addr, __start_tm_stub,
                         (size_t)(__stop_tm_stub - __start_tm_stub)) != 0 ||
        tm_memory_pwrite(call->mem_fd, call->block_addr + TM_STUB_PAGE_BYTES, &data,
                         sizeof(data)) != 0)
        return TM_CALL_GONE;
    int64_t rc = 0;
    const uint64_t args[6] = {call->block_addr, TM_STUB_PAGE_BYTES, PROT_READ | PROT_EXEC};
    enum tm_call_result result = make_syscall(self, SYS_mprotect, args, &rc);
    if (result == TM_CALL_DONE && rc != 0) {
        call->error_number = (int)-rc;
        return TM_CALL_RESOURCE;
    }
    tm_step(TM_STEP_MPROTECT, call->pid);
    return result;
}

/* Jumps into the block and follows the thread until it is about to call rt_sigreturn. */
static enum tm_call_result run_entry(struct borrowed *self)
{
    struct tm_call *call = self->call;
    uint64_t data_addr = call->block_addr + TM_STUB_PAGE_BYTES;
    struct user_regs_struct regs;
    tm_arch_regs_for_entry(&self->saved,
                           call->block_addr + (uint64_t)(tm_stub_borrow_entry - __start_tm_stub),
                           call->block_addr + TM_STUB_BLOCK_BYTES, data_addr, &regs);
    if (tm_arch_set_regs(self->tracee->tid, &regs) != 0)
        return TM_CALL_GONE;
    tm_step(TM_STEP_CALL, call->pid);
    do {
        enum tm_call_result result = next_syscall_stop(self);
        if (result != TM_CALL_DONE)
            return result;
        if (tm_arch_get_regs(self->tracee->tid, &regs) != 0)
            return TM_CALL_GONE;
    } while (tm_arch_syscall_number(&regs) != SYS_rt_sigreturn ||
             regs.rsp != tm_arch_frame_sp(&self->frame));
    tm_step(TM_STEP_CREATED, call->pid);
    struct tm_stub_data data;
    struct iovec local = {&data, sizeof(data)};
    struct iovec remote = {(void *)(uintptr_t)data_addr, sizeof(data)};
    if (process_vm_readv(call->pid, &local, 1, &remote, 1, 0) != (ssize_t)sizeof(data))
        return TM_CALL_GONE;
    call->error_number = data.create_error;
    return data.create_error == 0 ? TM_CALL_DONE : TM_CALL_RESOURCE;
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
    enum tm_stop stop =
        tm_tracee_to_event_stop(self->tracee, tm_tracee_now_ns() + 1000000000ull);
    return stop == TM_STOP_EVENT ? TM_CALL_DONE
           : stop == TM_STOP_GONE ? TM_CALL_GONE
                                  : TM_CALL_STUCK;
}

/* Under seccomp filters a system call that a tracer skips is judged as number -1 and may be
 * fatal. There rt_sigreturn is left to run, and restores everything from the frame. */
static enum tm_call_result let_sigreturn_run(struct borrowed *self)
{
    enum tm_stop stop =
        tm_tracee_to_event_stop(self->tracee, tm_tracee_now_ns() + 1000000000ull);
    tm_step(TM_STEP_HOME, self->call->pid);
    return stop == TM_STOP_EVENT ? TM_CALL_DONE
           : stop == TM_STOP_GONE ? TM_CALL_GONE
                                  : TM_CALL_STUCK;
}

/* Back to the thread's own state. unmap: the block has no user. */
static enum tm_call_result go_home(struct borrowed *self, bool unmap)
{
    pid_t tid = self->tracee->tid;
    struct user_regs_struct regs;
    if (self->call->keep_syscall && !unmap && tm_arch_get_regs(tid, &regs) == 0 &&
        tm_arch_syscall_number(&regs) == SYS_rt_sigreturn)
        return let_sigreturn_run(self);
    enum tm_call_result result = stop_at_restorer(self);
    if (result == TM_CALL_DONE && unmap) {
        int64_t ignored;
        const uint64_t args[6] = {self->call->block_addr, TM_STUB_BLOCK_BYTES};
        self->call->deadline_ns = tm_tracee_now_ns() + 1000000000ull;
        result = make_syscall(self, SYS_munmap, args, &ignored);
        if (result == TM_CALL_DONE)
            result = stop_at_restorer(self);
    }
    if (result != TM_CALL_DONE)
        return result;
    tm_step(TM_STEP_HOME, self->call->pid);
    if (tm_arch_restore(tid, &self->saved) != 0)
        return TM_CALL_GONE;
    tm_step(TM_STEP_RESTORED, self->call->pid);
    return TM_CALL_DONE;
}

enum tm_call_result tm_call_create_thread(struct tm_call *call, struct tm_tracee *tracee)
{
    static struct borrowed self; /* some 35 KiB; the worker has one thread */
    self.call = call;
    self.tracee = tracee;
    if (tm_arch_save(tracee->tid, &self.saved) != 0)
        return TM_CALL_GONE;
    tm_step(TM_STEP_SAVED, call->pid);
    tm_arch_build_frame(&self.saved, call->libc->restorer_addr, &self.frame);
    if (!write_frame(&self))
        return TM_CALL_UNUSABLE;
    tm_step(TM_STEP_FRAME, call->pid);
    enum tm_call_result result = map_block(&self);
    if (result == TM_CALL_DONE)
        result = fill_block(&self);
    if (result == TM_CALL_DONE)
        result = run_entry(&self);
    /* A thread that is stuck in pthread_create (somebody who is stopped holds its lock) is let go
     * as it is: the frame takes it home once it gets on. */
    if (result == TM_CALL_GONE || result == TM_CALL_STUCK)
        return result;
    bool unmap = result == TM_CALL_RESOURCE && call->block_addr != 0;
    enum tm_call_result home = go_home(&self, unmap);
    return home == TM_CALL_DONE ? result : home;
}
