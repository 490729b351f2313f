// SPDX-License-Identifier: MIT
/*
 * What a Python victim cannot do by itself; loaded with ctypes, which lets go of the GIL for each
 * call (CDLL) or does not (PyDLL). Loading it starts nothing.
 */
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT void tm_helper_churn(int threads, int arenas);
EXPORT void tm_helper_vfork(unsigned ms);
EXPORT void tm_helper_hold(unsigned ms);
EXPORT unsigned long tm_helper_altstack(void);
EXPORT int tm_helper_count(int number, unsigned long *counter);

static void sleep_ms(unsigned ms)
{
    struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0)
        ;
}

static void *churn(void *arg)
{
    unsigned seed = (unsigned)(unsigned long)arg;
    for (;;) {
        void *blocks[16];
        for (int i = 0; i < 16; i++) {
            size_t n_bytes = 16 + (size_t)rand_r(&seed) % 4000;
            blocks[i] = malloc(n_bytes);
            memset(blocks[i], i, n_bytes);
        }
        for (int i = 0; i < 16; i++)
            free(blocks[i]);
    }
    return NULL;
}

/* Threads that do nothing but allocate, without the GIL and unknown to Python; then the caller
 * does the same and never returns. */
void tm_helper_churn(int threads, int arenas)
{
    mallopt(M_ARENA_MAX, arenas);
    for (long i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, churn, (void *)i) != 0)
            abort();
    }
    churn(NULL);
}

/* The caller is in uninterruptible sleep (state D) until the child ends. */
void tm_helper_vfork(unsigned ms)
{
    if (vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        sleep_ms(ms);
        _exit(0);
    }
}

void tm_helper_hold(unsigned ms)
{
    sleep_ms(ms);
}

/* Where the calling thread's alternate signal stack is; 0: it has none. */
unsigned long tm_helper_altstack(void)
{
    stack_t stack;
    sigaltstack(NULL, &stack);
    return stack.ss_flags & SS_DISABLE ? 0 : (unsigned long)stack.ss_sp + stack.ss_size;
}

static unsigned long *counters[65];

static void on_signal(int number)
{
    __atomic_fetch_add(counters[number], 1, __ATOMIC_SEQ_CST);
}

/* Counts a signal in C, where Python's own handlers would be run once for several. */
int tm_helper_count(int number, unsigned long *counter)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    counters[number] = counter;
    return sigaction(number, &action, NULL);
}
