// SPDX-License-Identifier: MIT
/* Threads that wait in known places, directly and in signal handlers, and those that run. Under the
 * thread sanitizer a handler runs when its thread calls the C library next, so that nothing is ever
 * interrupted. */
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "payload/bystanders.h"

enum { LONG_MS = 60000, SHORT_MS = 20 };

#if defined(__SANITIZE_THREAD__)
enum { HANDLERS_INTERRUPT = 0 };
#else
enum { HANDLERS_INTERRUPT = 1 };
#endif

/* Sets *started, then loops until *until is set. In assembler, so that it is known where the loop
 * begins and ends. */
__asm__(".text\n"
        ".type test_spin, @function\n"
        "test_spin:\n"
        "    movl $1, (%rsi)\n"
        "test_spin_begin:\n"
        "1:  cmpl $0, (%rdi)\n"
        "    je 1b\n"
        "test_spin_end:\n"
        "    ret\n"
        ".size test_spin, . - test_spin\n");
void test_spin(_Atomic int *until, _Atomic int *started);
extern const char test_spin_begin[], test_spin_end[];

static int handler_pipe[2], other_pipe[2];
static _Atomic int spin_until, is_started, in_handler;

static struct tm_code_range spin_range(void)
{
    return (struct tm_code_range){(uintptr_t)test_spin_begin, (uintptr_t)test_spin_end};
}

static bool are_outside(struct tm_code_range range, int timeout_ms)
{
    return tm_bystanders_are_outside(&range, 1, timeout_ms);
}

static void wait_for(_Atomic int *value)
{
    while (atomic_load(value) == 0)
        usleep(100);
}

static void read_one(int fd)
{
    char byte;
    g_assert_cmpint(read(fd, &byte, 1), ==, 1);
}

static void let_go(const int pipe_fds[2])
{
    g_assert_cmpint(write(pipe_fds[1], "x", 1), ==, 1);
}

static void on_signal(int number)
{
    (void)number;
    atomic_store(&in_handler, 1);
    read_one(handler_pipe[0]);
}

static void set_handler(int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    g_assert_cmpint(sigaction(SIGUSR1, &action, NULL), ==, 0);
}

static pthread_t start(void *(*main)(void *), void *arg)
{
    pthread_t thread;
    atomic_store(&is_started, 0);
    atomic_store(&spin_until, 0);
    atomic_store(&in_handler, 0);
    g_assert_cmpint(pthread_create(&thread, NULL, main, arg), ==, 0);
    wait_for(&is_started);
    return thread;
}

static void test_nobody(void)
{
    g_assert_true(are_outside(spin_range(), LONG_MS));
}

/* ---- waiting in a system call ---- */

static _Atomic int waiting_tid;

static void *waits(void *arg)
{
    (void)arg;
    atomic_store(&waiting_tid, (int)syscall(SYS_gettid));
    atomic_store(&is_started, 1);
    read_one(other_pipe[0]);
    return NULL;
}

/* Where the kernel says that it waits; with that we ask whether it is there. */
static uint64_t waiting_pc(void)
{
    g_autofree char *path =
        g_strdup_printf("/proc/self/task/%d/syscall", atomic_load(&waiting_tid));
    for (;;) {
        g_autofree char *text = NULL;
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
        if (g_str_has_prefix(text, "0 ")) /* read */
            return strtoull(strrchr(text, ' ') + 1, NULL, 16);
        usleep(100);
    }
}

static void test_waiting(void)
{
    pthread_t thread = start(waits, NULL);
    uint64_t pc = waiting_pc();
    g_assert_false(are_outside((struct tm_code_range){pc, pc + 1}, SHORT_MS));
    g_assert_false(are_outside((struct tm_code_range){pc - 10, pc + 10}, SHORT_MS));
    g_assert_true(are_outside((struct tm_code_range){pc - 10, pc}, LONG_MS));
    g_assert_true(are_outside((struct tm_code_range){pc + 1, pc + 10}, LONG_MS));
    struct tm_code_range two[] = {spin_range(), {pc, pc + 1}};
    g_assert_false(tm_bystanders_are_outside(two, 2, SHORT_MS));
    g_assert_true(tm_bystanders_are_outside(two, 1, LONG_MS));
    let_go(other_pipe);
    pthread_join(thread, NULL);
    g_assert_true(are_outside((struct tm_code_range){pc, pc + 1}, LONG_MS));
}

/* It comes out while we look. */
static void *writes_later(void *arg)
{
    (void)arg;
    usleep(5000);
    let_go(other_pipe);
    return NULL;
}

static void test_waiting_ends(void)
{
    pthread_t thread = start(waits, NULL), writer;
    uint64_t pc = waiting_pc();
    g_assert_cmpint(pthread_create(&writer, NULL, writes_later, NULL), ==, 0);
    g_assert_true(are_outside((struct tm_code_range){pc, pc + 1}, LONG_MS));
    pthread_join(thread, NULL);
    pthread_join(writer, NULL);
}

/* ---- interrupted by a signal ---- */

static void *spins(void *arg)
{
    stack_t stack = {.ss_sp = arg, .ss_size = 65536}, usual;
    if (arg != NULL)
        g_assert_cmpint(sigaltstack(&stack, &usual), ==, 0);
    test_spin(&spin_until, &is_started);
    if (arg != NULL)
        g_assert_cmpint(sigaltstack(&usual, NULL), ==, 0); /* a sanitizer has one of its own */
    return NULL;
}

/* A handler waits in the kernel, and what it goes back to is in the range. */
static void interrupt_and_look(void *stack)
{
    pthread_t thread = start(spins, stack);
    pthread_kill(thread, SIGUSR1);
    wait_for(&in_handler);
    g_assert_false(are_outside(spin_range(), SHORT_MS));
    struct tm_code_range behind = {(uintptr_t)test_spin_end, (uintptr_t)test_spin_end + 1};
    g_assert_true(are_outside(behind, LONG_MS));
    atomic_store(&spin_until, 1);
    g_assert_false(are_outside(spin_range(), SHORT_MS));
    let_go(handler_pipe);
    pthread_join(thread, NULL);
    g_assert_true(are_outside(spin_range(), LONG_MS));
}

static void test_interrupted(void)
{
    set_handler(0);
    interrupt_and_look(NULL);
    set_handler(SA_RESETHAND | SA_NODEFER);
    interrupt_and_look(NULL);
}

/* The handler runs on a stack of its own, in the middle of other memory. */
static void test_interrupted_on_other_stack(void)
{
    void *memory = malloc(65536);
    set_handler(SA_ONSTACK);
    interrupt_and_look(memory);
    free(memory);
}

/* A handler above a handler: only the one below has interrupted the range. */
static void on_second_signal(int number)
{
    (void)number;
    atomic_store(&in_handler, 2);
    read_one(other_pipe[0]);
}

static void test_interrupted_twice(void)
{
    struct sigaction action = {.sa_handler = on_second_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
    void *memory = malloc(65536);
    set_handler(SA_RESTART);
    g_assert_cmpint(sigaction(SIGUSR2, &action, NULL), ==, 0);
    pthread_t thread = start(spins, memory);
    pthread_kill(thread, SIGUSR1);
    wait_for(&in_handler);
    pthread_kill(thread, SIGUSR2);
    while (atomic_load(&in_handler) != 2)
        usleep(100);
    g_assert_false(are_outside(spin_range(), SHORT_MS));
    atomic_store(&spin_until, 1);
    let_go(other_pipe);
    let_go(handler_pipe);
    pthread_join(thread, NULL);
    free(memory);
}

/* ---- running ---- */

static void *computes(void *arg)
{
    (void)arg;
    atomic_store(&is_started, 1);
    while (atomic_load(&spin_until) == 0)
        ;
    return NULL;
}

/* It never asks the kernel for anything. */
static void test_running(void)
{
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        threads[i] = start(computes, NULL);
    for (int i = 0; i < 20; i++)
        g_assert_true(are_outside((struct tm_code_range){1, 2}, LONG_MS));
    atomic_store(&spin_until, 1);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

static void *breeds(void *arg)
{
    atomic_store(&is_started, 1);
    while (atomic_load(&spin_until) == 0) {
        pthread_t child;
        g_assert_cmpint(pthread_create(&child, NULL, writes_later, arg), ==, 0);
        pthread_join(child, NULL);
        read_one(other_pipe[0]);
    }
    return NULL;
}

static void test_born_and_ended(void)
{
    pthread_t thread = start(breeds, NULL);
    for (int i = 0; i < 50; i++)
        g_assert_true(are_outside(spin_range(), LONG_MS));
    atomic_store(&spin_until, 1);
    pthread_join(thread, NULL);
}

static void *sleeps(void *arg)
{
    (void)arg;
    pause();
    return NULL;
}

static void test_many(void)
{
    enum { THREADS = 300 };
    static pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, sleeps, NULL), ==, 0);
    pthread_t thread = start(waits, NULL);
    uint64_t pc = waiting_pc();
    g_assert_true(are_outside(spin_range(), LONG_MS));
    g_assert_false(are_outside((struct tm_code_range){pc, pc + 1}, SHORT_MS));
    let_go(other_pipe);
    pthread_join(thread, NULL);
    for (int i = 0; i < THREADS; i++) {
        pthread_cancel(threads[i]);
        pthread_join(threads[i], NULL);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(pipe(handler_pipe), ==, 0);
    g_assert_cmpint(pipe(other_pipe), ==, 0);
    g_test_add_func("/bystanders/nobody", test_nobody);
    g_test_add_func("/bystanders/waiting", test_waiting);
    g_test_add_func("/bystanders/waiting-ends", test_waiting_ends);
    if (HANDLERS_INTERRUPT) {
        g_test_add_func("/bystanders/interrupted", test_interrupted);
        g_test_add_func("/bystanders/interrupted-on-other-stack", test_interrupted_on_other_stack);
        g_test_add_func("/bystanders/interrupted-twice", test_interrupted_twice);
    }
    g_test_add_func("/bystanders/running", test_running);
    g_test_add_func("/bystanders/born-and-ended", test_born_and_ended);
    g_test_add_func("/bystanders/many", test_many);
    return g_test_run();
}
