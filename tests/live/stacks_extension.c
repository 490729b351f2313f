// SPDX-License-Identifier: MIT
/*
 * Other stacks than a thread's own, for tests/live/victims/native_stacks.py:
 * coroutines, threads on a stack that they are given, signal handlers on another
 * one, and a function whose unwind table is wrong.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define EXPORT __attribute__((visibility("default")))

typedef int callback_t(int);
typedef void *malloc_t(size_t);

/* ---- memory ---- */

/* At `place`, or anywhere where that is NULL. NULL: it is taken. */
EXPORT char *tm_stacks_map(char *place, size_t bytes)
{
    char *memory =
        mmap(place, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | (place != NULL ? MAP_FIXED_NOREPLACE : 0), -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (place != NULL && memory != place) { /* Linux before 4.17 */
        munmap(memory, bytes);
        return NULL;
    }
    return memory;
}

EXPORT int tm_stacks_guard(char *page, size_t bytes)
{
    return mprotect(page, bytes, PROT_NONE);
}

EXPORT int tm_stacks_unmap(char *memory, size_t bytes)
{
    return munmap(memory, bytes);
}

/* ---- coroutines ---- */

struct coroutine {
    ucontext_t inside, *outside;
    callback_t *callback;
    int value, rounds;
};

static __thread struct coroutine *starting;

static void coroutine_main(void)
{
    struct coroutine *self = starting;
    for (int i = 0; i < self->rounds; i++) {
        self->callback(self->value + i);
        swapcontext(&self->inside, self->outside);
    }
}

static void make(struct coroutine *self, ucontext_t *outside, char *low, size_t bytes)
{
    getcontext(&self->inside);
    self->outside = outside;
    self->inside.uc_stack.ss_sp = low;
    self->inside.uc_stack.ss_size = bytes;
    self->inside.uc_link = outside;
    makecontext(&self->inside, coroutine_main, 0);
}

static void resume(struct coroutine *self)
{
    starting = self;
    swapcontext(self->outside, &self->inside);
}

EXPORT void tm_stacks_run(callback_t *callback, char *low, size_t bytes, int value)
{
    struct coroutine only = {.callback = callback, .value = value, .rounds = 1};
    ucontext_t outside;
    make(&only, &outside, low, bytes);
    resume(&only);
}

/* One after the other, again and again; `rounds` values from `value` on, and as
 * many behind them. */
EXPORT void tm_stacks_alternate(callback_t *callback, char *first, char *second, size_t bytes,
                                int value, int rounds)
{
    struct coroutine both[2] = {{.callback = callback, .value = value, .rounds = rounds},
                                {.callback = callback, .value = value + rounds, .rounds = rounds}};
    ucontext_t outside;
    make(&both[0], &outside, first, bytes);
    make(&both[1], &outside, second, bytes);
    for (int i = 0; i < 2 * rounds; i++)
        resume(&both[i % 2]);
}

/* ---- own stacks ---- */

struct work {
    callback_t *callback;
    int value;
};

static void *thread_main(void *data)
{
    const struct work *work = data;
    work->callback(work->value);
    return NULL;
}

/* A thread; low NULL: on a stack that the C library makes. guard_bytes: as it says in pthread_attr.
 */
EXPORT int tm_stacks_thread(callback_t *callback, char *low, size_t bytes, size_t guard_bytes,
                            int value)
{
    struct work work = {callback, value};
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    if (low != NULL)
        pthread_attr_setstack(&attr, low, bytes);
    else
        pthread_attr_setstacksize(&attr, bytes);
    pthread_attr_setguardsize(&attr, guard_bytes);
    int status = pthread_create(&thread, &attr, thread_main, &work);
    if (status == 0)
        pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
    return status;
}

/* So many bytes further down. */
EXPORT __attribute__((noinline)) int tm_stacks_deep(callback_t *callback, size_t bytes, int value)
{
    volatile char *buffer = alloca(bytes);
    buffer[0] = 1;
    return callback(value) + buffer[0];
}

/* An address on this stack. */
EXPORT void *tm_stacks_here(void)
{
    return __builtin_frame_address(0);
}

/* ---- signals ---- */

static struct {
    malloc_t *malloc;
    size_t bytes;
    void *volatile block; /* raise is a leaf to the compiler */
    volatile long count;
} handled;

static void allocate(int number)
{
    (void)number;
    handled.block = handled.malloc(handled.bytes);
}

static void count(int number)
{
    char buffer[2000];
    memset(buffer, number, sizeof buffer);
    __asm__ volatile("" : : "r"(buffer) : "memory");
    handled.count++;
}

/* A block that a handler takes on the stack at `low`. The signal is raised here, between two
 * allocations. */
EXPORT void *tm_stacks_signal(malloc_t *malloc_function, size_t bytes, char *low, size_t low_bytes)
{
    stack_t stack = {.ss_sp = low, .ss_size = low_bytes}, before;
    struct sigaction action = {.sa_handler = allocate, .sa_flags = SA_ONSTACK}, before_action;
    handled.malloc = malloc_function;
    handled.bytes = bytes;
    handled.block = NULL;
    sigaltstack(&stack, &before);
    sigaction(SIGUSR1, &action, &before_action);
    raise(SIGUSR1);
    sigaction(SIGUSR1, &before_action, NULL);
    sigaltstack(&before, NULL);
    return handled.block;
}

/* The alternate stack is a buffer on the thread's own. */
EXPORT void *tm_stacks_signal_inside(malloc_t *malloc_function, size_t bytes)
{
    size_t low_bytes = 1 << 16;
    return tm_stacks_signal(malloc_function, bytes, alloca(low_bytes), low_bytes);
}

/* Handlers on an alternate stack that merely run, all the time; low NULL: no more. How many ran. */
EXPORT long tm_stacks_timer(char *low, size_t low_bytes, int interval_us)
{
    stack_t stack = {.ss_sp = low, .ss_size = low_bytes, .ss_flags = low ? 0 : SS_DISABLE};
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_ONSTACK | SA_RESTART};
    struct itimerval timer = {{0, low ? interval_us : 0}, {0, low ? interval_us : 0}};
    if (low == NULL) {
        setitimer(ITIMER_REAL, &timer, NULL);
        action.sa_handler = SIG_IGN;
    }
    sigaction(SIGALRM, &action, NULL);
    sigaltstack(&stack, NULL);
    if (low != NULL)
        setitimer(ITIMER_REAL, &timer, NULL);
    return handled.count;
}

/* ---- a table that is wrong ---- */

/* Calls with what it likes in rbp, and says that this is where its caller's frame is. */
void *tm_stacks_with_rbp(malloc_t *malloc_function, size_t bytes, uint64_t rbp);
__asm__(".text\n"
        ".hidden tm_stacks_with_rbp\n"
        ".globl tm_stacks_with_rbp\n"
        ".type tm_stacks_with_rbp, @function\n"
        "tm_stacks_with_rbp:\n"
        ".cfi_startproc\n"
        "push %rbp\n"
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset %rbp, -16\n"
        "mov %rdi, %rax\n"
        "mov %rsi, %rdi\n"
        "mov %rdx, %rbp\n"
        ".cfi_def_cfa %rbp, 16\n"
        "call *%rax\n"
        "nop\n"
        ".cfi_def_cfa %rsp, 16\n"
        "pop %rbp\n"
        ".cfi_def_cfa_offset 8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size tm_stacks_with_rbp, . - tm_stacks_with_rbp\n");

/* The same by what rbp points to, as the frame of a function that realigns its stack is found: the
 * CFA is *(rbp - 8), the caller's rbp is *rbp. */
void *tm_stacks_with_pointer(malloc_t *malloc_function, size_t bytes, uint64_t rbp);
__asm__(".text\n"
        ".hidden tm_stacks_with_pointer\n"
        ".globl tm_stacks_with_pointer\n"
        ".type tm_stacks_with_pointer, @function\n"
        "tm_stacks_with_pointer:\n"
        ".cfi_startproc\n"
        "push %rbp\n"
        ".cfi_def_cfa_offset 16\n"
        "mov %rdi, %rax\n"
        "mov %rsi, %rdi\n"
        "mov %rdx, %rbp\n"
        ".cfi_escape 0x0f, 3, 0x76, 0x78, 0x06\n"
        ".cfi_escape 0x10, 6, 2, 0x76, 0\n"
        "call *%rax\n"
        "nop\n"
        ".cfi_def_cfa %rsp, 16\n"
        ".cfi_offset %rbp, -16\n"
        "pop %rbp\n"
        ".cfi_def_cfa_offset 8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size tm_stacks_with_pointer, . - tm_stacks_with_pointer\n");

EXPORT void *tm_stacks_by_pointer(malloc_t *malloc_function, size_t bytes, uint64_t rbp)
{
    return tm_stacks_with_pointer(malloc_function, bytes, rbp);
}

/* rbp is right, the words there are not. */
EXPORT void *tm_stacks_pointed(malloc_t *malloc_function, size_t bytes, uint64_t word)
{
    volatile uint64_t words[] = {word, word, word};
    void *block = tm_stacks_with_pointer(malloc_function, bytes, (uint64_t)(words + 1));
    __asm__ volatile("" : : "r"(words) : "memory");
    return block;
}

/* Its caller's frame is said to lie further down, where the stack may have ended. */
void *tm_stacks_with_rsp(malloc_t *malloc_function, size_t bytes);
__asm__(".text\n"
        ".hidden tm_stacks_with_rsp\n"
        ".globl tm_stacks_with_rsp\n"
        ".type tm_stacks_with_rsp, @function\n"
        "tm_stacks_with_rsp:\n"
        ".cfi_startproc\n"
        "sub $8, %rsp\n"
        ".cfi_def_cfa_offset 16\n"
        "mov %rdi, %rax\n"
        "mov %rsi, %rdi\n"
        ".cfi_def_cfa_offset -1040000\n"
        "call *%rax\n"
        "nop\n"
        ".cfi_def_cfa_offset 16\n"
        "add $8, %rsp\n"
        ".cfi_def_cfa_offset 8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size tm_stacks_with_rsp, . - tm_stacks_with_rsp\n");

EXPORT void *tm_stacks_downwards(malloc_t *malloc_function, size_t bytes)
{
    return tm_stacks_with_rsp(malloc_function, bytes);
}

/* A block that is taken while rbp is `rbp`; meanwhile `hole` cannot be read. It is not
 * unmapped, since anybody might take the place. */
EXPORT void *tm_stacks_hostile(malloc_t *malloc_function, size_t bytes, uint64_t rbp, char *hole,
                               size_t hole_bytes)
{
    if (hole != NULL)
        mprotect(hole, hole_bytes, PROT_NONE);
    void *block = tm_stacks_with_rbp(malloc_function, bytes, rbp);
    if (hole != NULL)
        mprotect(hole, hole_bytes, PROT_READ | PROT_WRITE);
    return block;
}
