// SPDX-License-Identifier: MIT
/*
 * The code that tm-attach copies into a page of the target. It runs in the target, first on the
 * borrowed thread (one call of pthread_create), then on the new thread.
 *
 * Everything lies in the section tm_stub and is built without anything that the compiler could
 * add by itself: no string literal, no switch, no call of memcpy, no stack protector, no
 * sanitizer (see injector/CMakeLists.txt; the test stub-has-no-relocations looks).
 */
#include "injector/inject_stub.h"

#include <linux/futex.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>

#define STUB __attribute__((section("tm_stub"), used, noinline))
#define STUB_INLINE static inline __attribute__((always_inline))

/* Offsets of struct tm_stub_data, as asserted in the header: boot.block_addr 40, block_bytes 48,
 * frame_sp 704, restorer 712, fn_munmap 720, borrow_done 728, create_error 732, landing_return 744,
 * landing_tid 752. */
__asm__(".pushsection tm_stub,\"ax\",@progbits\n"
        ".globl tm_stub_borrow_entry\n.hidden tm_stub_borrow_entry\n"
        "tm_stub_borrow_entry:\n"
        "    mov %rdi, %rbx\n"
        /* mprotect(data and stack, read and write): until then even the stack is read-only. */
        "    mov $73728, %esi\n"
        "    mov $3, %edx\n"
        "    mov $10, %eax\n"
        "    syscall\n"
        "    mov %rbx, %rdi\n"
        "    test %eax, %eax\n"
        "    jnz tm_stub_borrow_leave\n"
        "    call tm_stub_borrow\n"
        "    mov %rbx, %rdi\n"
        /* Back to the thread's own stack, where the frame for rt_sigreturn lies. The restorer is
         * loaded first: after the flag is set nothing of the block may be needed any more. */
        ".globl tm_stub_borrow_leave\n.hidden tm_stub_borrow_leave\n"
        "tm_stub_borrow_leave:\n"
        "    mov 704(%rdi), %rsp\n"
        "    cmpl $0, 732(%rdi)\n"
        "    jne 1f\n"
        "    mov 712(%rdi), %rax\n"
        "    movl $1, 728(%rdi)\n"
        "    jmp *%rax\n"
        /* There is no new thread: munmap, which returns into the restorer, whose address is the
         * word below the frame. */
        "1:  sub $8, %rsp\n"
        "    mov 720(%rdi), %rax\n"
        "    mov 48(%rdi), %rsi\n"
        "    mov 40(%rdi), %rdi\n"
        "    jmp *%rax\n"
        /* As after a call: the registers that a function must keep are kept, those of its result,
         * too. The page of this code lies in front of the data. */
        ".globl tm_stub_land\n.hidden tm_stub_land\n"
        "tm_stub_land:\n"
        "    sub $8, %rsp\n"
        "    push %rax\n"
        "    push %rdx\n"
        "    push %rbx\n"
        "    push %rbp\n"
        "2:  lea 2b(%rip), %rbx\n"
        "    and $-4096, %rbx\n"
        "    add $4096, %rbx\n"
        "    mov 744(%rbx), %rax\n"
        "    mov %rax, 32(%rsp)\n"
        "    mov %rsp, %rbp\n"
        /* gettid: is it that thread? Then mprotect, as above. */
        "    mov $186, %eax\n"
        "    syscall\n"
        "    cmp %eax, 752(%rbx)\n"
        "    jne 3f\n"
        "    mov %rbx, %rdi\n"
        "    mov $73728, %esi\n"
        "    mov $3, %edx\n"
        "    mov $10, %eax\n"
        "    syscall\n"
        "    test %eax, %eax\n"
        "    jnz 3f\n"
        "    lea 73728(%rbx), %rsp\n"
        "    mov %rbx, %rdi\n"
        "    call tm_stub_create\n"
        "    mov %rbp, %rsp\n"
        "    mov %rbx, %rcx\n"
        "    pop %rbp\n"
        "    pop %rbx\n"
        "    pop %rdx\n"
        "    pop %rax\n"
        "    movl $1, 728(%rcx)\n"
        "    ret\n"
        "3:  pop %rbp\n"
        "    pop %rbx\n"
        "    pop %rdx\n"
        "    pop %rax\n"
        "    ret\n"
        ".globl tm_stub_thread_entry\n.hidden tm_stub_thread_entry\n"
        "tm_stub_thread_entry:\n"
        "    push %rbx\n"
        "    mov %rdi, %rbx\n"
        "    call tm_stub_thread\n"
        /* munmap returns to the thread's start routine in libc: its code and stack are not in the
         * block, and its result, 0, becomes the thread's. */
        "    mov 40(%rbx), %rdi\n"
        "    mov 48(%rbx), %rsi\n"
        "    mov 720(%rbx), %rax\n"
        "    pop %rbx\n"
        "    jmp *%rax\n"
        ".popsection\n");

void tm_stub_borrow(struct tm_stub_data *data);
void tm_stub_create(struct tm_stub_data *data);
void tm_stub_thread(struct tm_stub_data *data);

STUB_INLINE long raw_syscall(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

/* A futex that nobody wakes: every program with threads may call futex, seccomp or not. */
STUB_INLINE void sleep_ns(struct tm_stub_data *data, long ns)
{
    struct timespec timeout = {0, ns};
    raw_syscall(SYS_futex, (long)&data->sleep_word, FUTEX_WAIT_PRIVATE, 0, (long)&timeout);
}

#include "injector/inject_stub_forks.h"

STUB_INLINE void set_phase(struct tm_stub_data *data, uint32_t phase)
{
    atomic_store_explicit(&data->boot.phase, phase, memory_order_release);
}

STUB_INLINE bool is_abandoned(struct tm_stub_data *data)
{
    return atomic_load_explicit(&data->boot.claim, memory_order_acquire) == TM_CLAIM_ABANDONED;
}

/* Waits for the worker, which puts the thread back better than the frame can. Not with a futex:
 * interrupted, that overwrites what the kernel keeps of the program's own interrupted call. */
STUB_INLINE void park(struct tm_stub_data *data)
{
    if (data->park_ms == 0)
        return;
    struct timespec left = {0, (long)data->park_ms * 1000000};
    atomic_store_explicit(&data->parked, 1, memory_order_release);
    /* The kernel counts `left` down. Any other answer than EINTR is the end of it. */
    while (raw_syscall(SYS_ppoll, 0, 0, (long)&left, 0) == -4)
        ;
}

/* See struct tm_stub_gil. The interpreter's functions are called as the thread would call them
 * itself when its system call returns and the next one begins. */
STUB_INLINE void make_gil(const struct tm_stub_gil *gil)
{
    int (*is_made)(void) = (void *)gil->fn_is_made;
    void *(*this_state)(void) = (void *)gil->fn_this_state;
    void (*restore)(void *) = (void *)gil->fn_restore;
    void (*make)(void) = (void *)gil->fn_make;
    void *(*save)(void) = (void *)gil->fn_save;
    if (is_made() || *(void *volatile *)gil->current_state_addr != NULL)
        return;
    void *state = this_state();
    if (state == NULL)
        return;
    restore(state);
    make();
    save();
}

/* What pthread_create said. Static TLS lies on the new thread's stack: where that is large, the
 * small stack is refused and a larger one, then the default, is tried. While another thread is
 * inside exec, which may yet fail, there are no new threads (kernel/fork.c, copy_fs). */
STUB_INLINE int create_thread(struct tm_stub_data *data)
{
    int (*create)(void *, void *, void *, void *) = (void *)data->fn_pthread_create;
    int (*attr_init)(void *) = (void *)data->fn_attr_init;
    int (*set_detach)(void *, int) = (void *)data->fn_attr_setdetachstate;
    int (*set_stack)(void *, unsigned long) = (void *)data->fn_attr_setstacksize;
    int rc = attr_init(data->attr);
    if (rc == 0)
        rc = set_detach(data->attr, 1 /* PTHREAD_CREATE_DETACHED */);
    for (unsigned long bytes = data->stack_bytes; rc == 0 && bytes <= 16 * data->stack_bytes;
         bytes *= 4) {
        set_stack(data->attr, bytes);
        for (int tries = 0; tries < 20; tries++) {
            rc = create(&data->pthread, data->attr, (void *)data->thread_entry, data);
            if (rc != 11 /* EAGAIN */)
                break;
            sleep_ns(data, 1000000);
        }
        if (rc != 22 /* EINVAL */)
            break;
        rc = bytes < 16 * data->stack_bytes ? 0 : rc;
    }
    return rc;
}

/* On the borrowed thread. */
STUB void tm_stub_borrow(struct tm_stub_data *data)
{
    int *(*errno_location)(void) = (void *)data->fn_errno_location;
    int *errno_at = errno_location(), saved_errno = *errno_at;
    if (data->gil.fn_is_made != 0)
        make_gil(&data->gil);
    int rc = create_thread(data);
    *errno_at = saved_errno;
    data->create_error = rc;
    park(data);
}

/* On a thread that has landed. The new thread must not be born with signals let in: one of the
 * program's handlers would run there. */
STUB void tm_stub_create(struct tm_stub_data *data)
{
    int *(*errno_location)(void) = (void *)data->fn_errno_location;
    int *errno_at = errno_location(), saved_errno = *errno_at;
    uint64_t all = ~0ull, old = 0;
    raw_syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, (long)&all, (long)&old, 8);
    int rc = create_thread(data);
    raw_syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, (long)&old, 0, 8);
    *errno_at = saved_errno;
    data->create_error = rc;
    atomic_store_explicit(&data->parked, 1, memory_order_release);
}

STUB_INLINE void fail(struct tm_stub_data *data, int error, const char *text)
{
    unsigned i = 0;
    for (; text != NULL && i < sizeof(data->boot.message) - 1 && text[i] != '\0'; i++)
        data->boot.message[i] = text[i] == '\n' ? ' ' : text[i];
    data->boot.message[i] = '\0';
    data->boot.error = error;
    set_phase(data, TM_BOOT_FAILED);
}

STUB_INLINE void append_number(char *text, unsigned number)
{
    while (*text != '\0')
        text++;
    unsigned unit = 1;
    while (number / unit >= 10)
        unit *= 10;
    for (; unit > 0; unit /= 10)
        *text++ = (char)('0' + number / unit % 10);
    *text = '\0';
}

/* The descriptor that carries the payload, once tm-attach has filled it; < 0: none. */
STUB_INLINE int receive_payload(struct tm_stub_data *data)
{
    long fd = raw_syscall(SYS_memfd_create, (long)data->memfd_name, data->memfd_flags, 0, 0);
    /* Kernels before 6.3 do not know MFD_EXEC and need no telling. */
    if (fd == -22)
        fd = raw_syscall(SYS_memfd_create, (long)data->memfd_name, 1 /* MFD_CLOEXEC */, 0, 0);
    atomic_store_explicit(&data->payload_fd, (int)fd, memory_order_release);
    if (fd < 0) {
        fail(data, TM_BOOT_E_RESOURCE, NULL);
        return -1;
    }
    /* Often at first, and then seldom: on a busy machine each sleep is longer than it was to be. */
    for (uint32_t waited_us = 0; waited_us < 1000 * data->payload_wait_ms && !is_abandoned(data);) {
        if (atomic_load_explicit(&data->payload_ready, memory_order_acquire) != 0)
            return (int)fd;
        uint32_t step_us = waited_us < 200000 ? 500 : 20000;
        sleep_ns(data, (long)step_us * 1000);
        waited_us += step_us;
    }
    raw_syscall(SYS_close, fd, 0, 0, 0);
    fail(data, TM_BOOT_E_RESOURCE, NULL);
    return -1;
}

STUB_INLINE void load_and_run(struct tm_stub_data *data, int fd)
{
    void *(*open_library)(const char *, int) = (void *)data->fn_dlopen;
    void *(*find_symbol)(void *, const char *) = (void *)data->fn_dlsym;
    int (*close_library)(void *) = (void *)data->fn_dlclose;
    const char *(*last_error)(void) = (void *)data->fn_dlerror;

    set_phase(data, TM_BOOT_DLOPEN);
    append_number(data->fd_path, (unsigned)fd);
    hold_forks(data);
    void *library = open_library(data->fd_path, data->dlopen_flags);
    raw_syscall(SYS_close, fd, 0, 0, 0);
    if (library == NULL) {
        let_fork(data);
        fail(data, TM_BOOT_E_DLOPEN, last_error());
        return;
    }
    void (*start)(struct tm_boot *) = find_symbol(library, data->start_symbol);
    if (start == NULL) {
        fail(data, TM_BOOT_E_SYMBOL, last_error());
    } else if (!is_abandoned(data)) {
        set_phase(data, TM_BOOT_STARTED);
        start(&data->boot);
    }
    hold_forks(data);
    close_library(library);
    let_fork(data);
}

/* Nobody may be left in the block when it goes. The borrowed thread sets its flag one instruction
 * before it has left; it does so within microseconds of the new thread's birth, unless it or the
 * whole process was stopped just there. */
STUB_INLINE void wait_for_leavers(struct tm_stub_data *data)
{
    for (unsigned i = 0; i < data->error_wait_ms; i++) {
        if (atomic_load_explicit(&data->boot.phase, memory_order_acquire) != TM_BOOT_FAILED ||
            atomic_load_explicit(&data->boot.error_seen, memory_order_acquire) != 0 ||
            is_abandoned(data))
            break;
        sleep_ns(data, 1000000);
    }
    while (atomic_load_explicit(&data->borrow_done, memory_order_acquire) == 0)
        sleep_ns(data, 1000000);
    sleep_ns(data, 20000000);
}

STUB void tm_stub_thread(struct tm_stub_data *data)
{
    raw_syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, (long)&data->signal_mask, 0, 8);
    uint32_t expected = TM_CLAIM_FREE;
    if (atomic_compare_exchange_strong(&data->boot.claim, &expected, TM_CLAIM_THREAD)) {
        set_phase(data, TM_BOOT_THREAD);
        register_fork_handlers(data);
        int fd = receive_payload(data);
        if (fd >= 0)
            load_and_run(data, fd);
        if (atomic_load_explicit(&data->boot.phase, memory_order_acquire) != TM_BOOT_FAILED)
            set_phase(data, TM_BOOT_ENDED);
        take_back_fork_handlers(data);
    }
    wait_for_leavers(data);
}
