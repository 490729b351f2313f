// SPDX-License-Identifier: MIT
/* execs: two threads; SIGUSR1 makes the process exec itself anew. Says "ready" at each start. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static char **own_argv;

static void on_signal(int number)
{
    (void)number;
    execv("/proc/self/exe", own_argv);
}

static void *sleep_for_ever(void *arg)
{
    for (;;)
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    return arg;
}

int main(int argc, char **argv)
{
    (void)argc;
    own_argv = argv;
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t none;
    pthread_t thread;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    sigaction(SIGUSR1, &action, NULL);
    if (pthread_create(&thread, NULL, sleep_for_ever, NULL) != 0)
        return 1;
    printf("ready\n");
    fflush(stdout);
    sleep_for_ever(NULL);
}
