// SPDX-License-Identifier: MIT
/*
 * churn [THREADS [ARENAS [SIGNALS]]]: main and THREADS threads do nothing but malloc, realloc and
 * free. With SIGNALS, a timer sends SIGALRM and SIGPROF every millisecond as well. Says "ready",
 * then "beat N" each time all threads have gone on.
 */
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define MAX_THREADS 64

static _Atomic unsigned long beats[MAX_THREADS];
static _Atomic unsigned long signals_seen;

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals_seen, 1);
}

static void churn_once(unsigned *seed)
{
    void *blocks[32];
    for (int i = 0; i < 32; i++) {
        size_t n_bytes = 16 + (size_t)rand_r(seed) % 4000;
        blocks[i] = malloc(n_bytes);
        memset(blocks[i], i, n_bytes);
    }
    for (int i = 0; i < 32; i += 2)
        blocks[i] = realloc(blocks[i], 8000);
    for (int i = 0; i < 32; i++) {
        if (*(unsigned char *)blocks[i] != i)
            abort();
        free(blocks[i]);
    }
}

static void *churn(void *arg)
{
    unsigned seed = (unsigned)(unsigned long)arg;
    for (;;) {
        churn_once(&seed);
        atomic_fetch_add(&beats[(unsigned long)arg], 1);
    }
    return NULL;
}

static void start_timers(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct itimerval every_ms = {{0, 1000}, {0, 1000}};
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGPROF, &action, NULL);
    setitimer(ITIMER_REAL, &every_ms, NULL);
    setitimer(ITIMER_PROF, &every_ms, NULL);
}

int main(int argc, char **argv)
{
    unsigned long threads = argc > 1 ? strtoul(argv[1], NULL, 10) : 8;
    if (argc > 2)
        mallopt(M_ARENA_MAX, atoi(argv[2]));
    if (argc > 3 && atoi(argv[3]) != 0)
        start_timers();
    for (unsigned long i = 1; i <= threads && i < MAX_THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, churn, (void *)i) != 0)
            return 1;
    }
    printf("ready\n");
    fflush(stdout);
    unsigned seed = 0;
    unsigned long last[MAX_THREADS] = {0};
    for (unsigned long n = 1;; n++) {
        for (unsigned long i = 1; i <= threads; i++) {
            while (atomic_load(&beats[i]) == last[i])
                churn_once(&seed);
            last[i] = atomic_load(&beats[i]);
        }
        printf("beat %lu\n", n);
        fflush(stdout);
    }
}
