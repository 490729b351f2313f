// SPDX-License-Identifier: MIT
/*
 * May a thread with this stack call pthread_create now? It may where it holds none of the locks
 * that pthread_create takes (of malloc, of the stack cache, of TLS in ld.so). Those are only taken
 * inside libc and ld.so, so a stack is safe where each run of libc frames was entered through a
 * function of which we know that it takes none of them.
 */
#include "injector/inject_safe.h"

#include <string.h>
#include <sys/syscall.h>

/* Sorted. Wrappers of one system call, and functions that only wait. */
static const char *const safe_names[] = {
    "accept",
    "accept4",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "fcntl",
    "fcntl64",
    "fdatasync",
    "flock",
    "fstat",
    "fstat64",
    "fstatat",
    "fstatat64",
    "fsync",
    "ftruncate64",
    "futex",
    "getpid",
    "getrandom",
    "getrusage",
    "getsockopt",
    "gettid",
    "gettimeofday",
    "ioctl",
    "kill",
    "lseek",
    "lseek64",
    "lstat64",
    "madvise",
    "mmap",
    "mmap64",
    "mprotect",
    "msgrcv",
    "msgsnd",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "open64",
    "openat",
    "openat64",
    "pause",
    "poll",
    "poll_chk",
    "ppoll",
    "pread",
    "pread64",
    "preadv",
    "preadv2",
    "preadv64",
    "pselect",
    "pthread_clockjoin_np",
    "pthread_cond_broadcast",
    "pthread_cond_clockwait",
    "pthread_cond_signal",
    "pthread_cond_timedwait",
    "pthread_cond_wait",
    "pthread_join",
    "pthread_kill",
    "pthread_mutex_lock",
    "pthread_mutex_timedlock",
    "pthread_mutex_trylock",
    "pthread_mutex_unlock",
    "pthread_rwlock_rdlock",
    "pthread_rwlock_unlock",
    "pthread_rwlock_wrlock",
    "pthread_self",
    "pthread_sigmask",
    "pthread_timedjoin_np",
    "pwrite",
    "pwrite64",
    "pwritev",
    "read",
    "read_chk",
    "readlink",
    "readv",
    "recv",
    "recv_chk",
    "recvfrom",
    "recvfrom_chk",
    "recvmmsg",
    "recvmsg",
    "rt_sigtimedwait",
    "sched_yield",
    "select",
    "sem_clockwait",
    "sem_post",
    "sem_timedwait",
    "sem_trywait",
    "sem_wait",
    "semop",
    "semtimedop",
    "send",
    "sendfile",
    "sendfile64",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setitimer",
    "setsockopt",
    "shutdown",
    "sigprocmask",
    "sigsuspend",
    "sigtimedwait",
    "sigwait",
    "sigwaitinfo",
    "sleep",
    "splice",
    "stat",
    "stat64",
    "sync",
    "syscall",
    "tgkill",
    "time",
    "usleep",
    "wait",
    "wait3",
    "wait4",
    "waitid",
    "waitpid",
    "write",
    "writev",
};

/* These hold a lock for a moment, but not while they wait for what they are for. */
static const char *const safe_waiting_names[] = {
    "pthread_clockjoin_np",
    "pthread_join",
    "pthread_timedjoin_np",
};

/* stdio, as Python 2.7 uses it: while it waits in read or write it holds nothing but the lock of
 * that one FILE (its buffer was made before). */
static const char *const safe_stdio_names[] = {
    "fflush", "fgetc",           "fgets",     "fputc",    "fputs",   "fread",    "fread_unlocked",
    "fwrite", "fwrite_unlocked", "getc",      "getdelim", "getline", "overflow", "putc",
    "puts",   "uflow",           "underflow",
};

const char *tm_verdict_text(enum tm_verdict verdict)
{
    static const char *const texts[TM_VERDICTS] = {
        [TM_VERDICT_SAFE] = "safe",
        [TM_VERDICT_LIBC] = "inside libc where locks may be held",
        [TM_VERDICT_LDSO] = "inside the dynamic linker",
        [TM_VERDICT_MALLOC] = "inside a memory allocator",
        [TM_VERDICT_SIGNAL] = "inside a signal handler",
        [TM_VERDICT_INCOMPLETE] = "with a stack that cannot be unwound",
    };
    return verdict < TM_VERDICTS ? texts[verdict] : "unknown";
}

static bool is_in(const char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

bool tm_inject_name_is_safe(const char *name, long in_syscall)
{
    if (g_str_has_prefix(name, "__GI_"))
        name += 5;
    name += strspn(name, "_");
    if (g_str_has_prefix(name, "libc_"))
        name += 5;
    else if (g_str_has_prefix(name, "new_"))
        name += 4;
    if (in_syscall == SYS_read || in_syscall == SYS_write) {
        const char *plain = g_str_has_prefix(name, "IO_") ? name + 3 : name;
        if (is_in(safe_stdio_names, G_N_ELEMENTS(safe_stdio_names), plain))
            return true;
    }
    if (!is_in(safe_names, G_N_ELEMENTS(safe_names), name))
        return false;
    return !is_in(safe_waiting_names, G_N_ELEMENTS(safe_waiting_names), name) ||
           in_syscall == SYS_futex;
}

/* Any of the names that cover the address will do: aliases share it. */
static bool entry_is_safe(tm_unwinder *unwinder, uint64_t addr, long in_syscall)
{
    uint64_t value = 0;
    const tm_symbols *functions = tm_unwinder_functions_at(unwinder, addr, &value);
    const struct tm_symbol *found = functions != NULL ? tm_symbols_find(functions, value) : NULL;
    if (found == NULL)
        return false;
    for (const struct tm_symbol *at = found; at >= functions->items; at--) {
        if (at->value != found->value)
            break;
        if (tm_inject_name_is_safe(at->name, in_syscall))
            return true;
    }
    return false;
}

/*
 * Where the function that was called ended in a tail call, its own frame is gone: what is on the
 * stack is some internal function. The call instruction before the return address in the caller
 * still says which function was entered, through the PLT and the GOT as a rule.
 */
static bool called_is_safe(tm_unwinder *unwinder, const struct tm_frame *caller, long in_syscall)
{
    uint8_t code[16];
    uint64_t target, slot;
    if (caller->exact_pc || !tm_unwinder_read(unwinder, caller->pc - 8, code, 8))
        return false;
    switch (tm_arch_decode_call(code, 8, caller->pc, &target)) {
    case TM_ARCH_CALL_UNKNOWN:
        return false;
    case TM_ARCH_CALL_SLOT:
        if (!tm_unwinder_read(unwinder, target, &target, sizeof(target)))
            return false;
        break;
    case TM_ARCH_CALL_DIRECT:
        if (!tm_unwinder_read(unwinder, target, code, sizeof(code)))
            return false;
        if (tm_arch_decode_plt(code, sizeof(code), target, &slot) &&
            !tm_unwinder_read(unwinder, slot, &target, sizeof(target)))
            return false;
        break;
    }
    return entry_is_safe(unwinder, target, in_syscall);
}

/* _start lies in the executable, so that libc's start of the program is not the last run. */
static bool is_program_start(tm_unwinder *unwinder, uint64_t addr)
{
    uint64_t value = 0;
    const tm_symbols *functions = tm_unwinder_functions_at(unwinder, addr, &value);
    const struct tm_symbol *found = functions != NULL ? tm_symbols_find(functions, value) : NULL;
    return found != NULL && strncmp(found->name, "__libc_start_", strlen("__libc_start_")) == 0;
}

/* frames[first..last] are libc's, and the run is as long as it can be. */
static bool run_is_safe(tm_unwinder *unwinder, const GArray *frames, unsigned first, unsigned last,
                        long in_syscall)
{
    const struct tm_frame *outermost = &g_array_index(frames, struct tm_frame, last);
    /* The end of the stack: libc's start of the program or of the thread. A thread that is in
     * there and nowhere else is being born or dying. */
    if (last + 1 == frames->len)
        return first > 0;
    /* Only the innermost run can be waiting in a system call. */
    long number = first == 0 ? in_syscall : -1;
    uint64_t pc = outermost->exact_pc ? outermost->pc : outermost->pc - 1;
    if (first > 0 && is_program_start(unwinder, pc))
        return true;
    return entry_is_safe(unwinder, pc, number) ||
           called_is_safe(unwinder, &g_array_index(frames, struct tm_frame, last + 1), number);
}

enum tm_verdict tm_inject_judge(tm_unwinder *unwinder, const GArray *frames, bool complete,
                                long in_syscall)
{
    for (unsigned i = 0; i < frames->len; i++) {
        const struct tm_frame *frame = &g_array_index(frames, struct tm_frame, i);
        if (frame->is_signal)
            return TM_VERDICT_SIGNAL;
        if (frame->kind == TM_FRAME_LDSO)
            return TM_VERDICT_LDSO;
        if (frame->kind == TM_FRAME_MALLOC)
            return TM_VERDICT_MALLOC;
        if (frame->kind != TM_FRAME_LIBC)
            continue;
        unsigned last = i;
        while (last + 1 < frames->len &&
               g_array_index(frames, struct tm_frame, last + 1).kind == TM_FRAME_LIBC &&
               !g_array_index(frames, struct tm_frame, last + 1).is_signal)
            last++;
        if (!run_is_safe(unwinder, frames, i, last, in_syscall))
            return complete ? TM_VERDICT_LIBC : TM_VERDICT_INCOMPLETE;
        i = last;
    }
    return complete ? TM_VERDICT_SAFE : TM_VERDICT_INCOMPLETE;
}
