// SPDX-License-Identifier: MIT
#include <glib.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

#include "payload/bystanders.h"

#define TIMEOUT_MS 50

static int pipe_fds[2];
static volatile int flags[2]; /* go on; it goes round */
static sem_t arrived;

/* A function of known size that goes round until flags[0] is set. */
void spin(volatile int *flags);
extern const char spin_end[];
#if defined(__x86_64__)
__asm__(".text\n.globl spin\nspin:\n movl $1,4(%rdi)\n1: pause\n cmpl $0,(%rdi)\n je 1b\n ret\n"
        ".globl spin_end\nspin_end:\n");
#elif defined(__aarch64__)
__asm__(".text\n.globl spin\nspin:\n mov w1,#1\n str w1,[x0,#4]\n1: yield\n ldr w1,[x0]\n cbz "
        "w1,1b\n ret\n"
        ".globl spin_end\nspin_end:\n");
#endif

static bool outside_spin(int timeout_ms)
{
    const struct tm_code_range range = {(uintptr_t)spin, (uintptr_t)spin_end};
    return tm_bystanders_are_outside(&range, 1, timeout_ms);
}

static void wait_in_the_kernel(int signal_number)
{
    char byte;
    (void)signal_number;
    sem_post(&arrived);
    while (read(pipe_fds[0], &byte, 1) < 0)
        ;
}

static void *spinner(void *unused)
{
    spin(flags);
    return unused;
}

static void *sleeper(void *unused)
{
    wait_in_the_kernel(0);
    return unused;
}

static void let_go(void)
{
    g_assert_cmpint(write(pipe_fds[1], "x", 1), ==, 1);
}

static pthread_t start(void *(*function)(void *))
{
    pthread_t thread;
    g_assert_cmpint(pthread_create(&thread, NULL, function, NULL), ==, 0);
    return thread;
}

static void test_alone(void)
{
    g_assert_true(outside_spin(100 * TIMEOUT_MS));
}

static void test_waits_elsewhere(void)
{
    pthread_t thread = start(sleeper);
    sem_wait(&arrived);
    g_assert_true(outside_spin(100 * TIMEOUT_MS));
    let_go();
    pthread_join(thread, NULL);
}

/* The kernel shows where the handler waits; the stack shows where it goes back to. */
static void test_interrupted_inside(void)
{
    struct sigaction action = {.sa_handler = wait_in_the_kernel};
    sigaction(SIGUSR1, &action, NULL);
    pthread_t thread = start(spinner);
    while (!flags[1])
        sched_yield();
    pthread_kill(thread, SIGUSR1);
    sem_wait(&arrived);
    g_assert_false(outside_spin(TIMEOUT_MS));
    flags[0] = 1;
    let_go();
    pthread_join(thread, NULL);
    g_assert_true(outside_spin(100 * TIMEOUT_MS));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(pipe(pipe_fds), ==, 0);
    sem_init(&arrived, 0, 0);
    g_test_add_func("/bystanders/alone", test_alone);
    g_test_add_func("/bystanders/waits-elsewhere", test_waits_elsewhere);
    g_test_add_func("/bystanders/interrupted-inside", test_interrupted_inside);
    return g_test_run();
}
