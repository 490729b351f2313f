// SPDX-License-Identifier: MIT
/*
 * A thread that is where none should be: inside the first bytes of a function of Python's, without
 * the GIL. It comes there one instruction at a time (the processor's trap flag), and stays in the
 * handler of the trap until it is told to leave; what it goes back to is the interrupted code.
 * Loaded with ctypes. x86-64 only.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define TRAP_FLAG 0x100

EXPORT int tm_inside_enter(void *(*function)(size_t));
EXPORT void *tm_inside_leave(void);

static pthread_t thread;
static void *(*entered)(size_t);
static int arrived[2], leaving[2];
static struct sigaction usual;

/* After the function's first instruction, wherever that led to. */
static void on_trap(int number, siginfo_t *info, void *data)
{
    ucontext_t *context = data;
    greg_t *regs = context->uc_mcontext.gregs;
    char byte = 'x';
    (void)number;
    (void)info;
    /* The call, and how it gets to the function. */
    static int is_at_entry;
    if (!is_at_entry) {
        is_at_entry = regs[REG_RIP] == (greg_t)entered;
        return;
    }
    regs[REG_EFL] &= ~TRAP_FLAG;
    is_at_entry = 0;
    if (write(arrived[1], &byte, 1) != 1 || read(leaving[0], &byte, 1) != 1)
        abort();
}

static void *enter(void *arg)
{
    (void)arg;
    __asm__ volatile("pushfq\n orq %0, (%%rsp)\n popfq" ::"i"(TRAP_FLAG) : "memory", "cc");
    return entered(16);
}

/* Returns when the thread is inside. */
int tm_inside_enter(void *(*function)(size_t))
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    char byte;
    entered = function;
    return pipe(arrived) == 0 && pipe(leaving) == 0 && sigaction(SIGTRAP, &action, &usual) == 0 &&
           pthread_create(&thread, NULL, enter, NULL) == 0 && read(arrived[0], &byte, 1) == 1;
}

/* Returns what the function returned. */
void *tm_inside_leave(void)
{
    void *result = NULL;
    if (write(leaving[1], "x", 1) == 1)
        pthread_join(thread, &result);
    sigaction(SIGTRAP, &usual, NULL);
    for (int i = 0; i < 2; i++) {
        close(arrived[i]);
        close(leaving[i]);
    }
    return result;
}
