// SPDX-License-Identifier: MIT
/*
 * calls KIND: one thread that makes blocking calls with a time-out and looks at what they return:
 * ends with a message where one was cut short (EINTR), came back too early, or took more than three
 * times as long as it was told to. Says "ready", then "beat N". The kinds without a time-out return
 * when a byte comes from standard input, and whoever waits for it is a child.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CALL_MS 300

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static struct timespec in_future(clockid_t clock)
{
    struct timespec when;
    clock_gettime(clock, &when);
    when.tv_nsec += CALL_MS * 1000000l;
    if (when.tv_nsec >= 1000000000l) {
        when.tv_sec++;
        when.tv_nsec -= 1000000000l;
    }
    return when;
}

/* errno of the call, or 0 where it timed out as it should. */
static int call(const char *kind)
{
    struct timespec span = {0, CALL_MS * 1000000l};
    struct timeval old_span = {0, CALL_MS * 1000l};
    int rc = 0;
    errno = 0;
    if (strcmp(kind, "nanosleep") == 0)
        rc = nanosleep(&span, NULL);
    else if (strcmp(kind, "clock-nanosleep") == 0)
        errno = rc = clock_nanosleep(CLOCK_MONOTONIC, 0, &span, NULL);
    else if (strcmp(kind, "poll") == 0)
        rc = poll(NULL, 0, CALL_MS);
    else if (strcmp(kind, "ppoll") == 0)
        rc = ppoll(NULL, 0, &span, NULL);
    else if (strcmp(kind, "select") == 0)
        rc = select(0, NULL, NULL, NULL, &old_span);
    else if (strcmp(kind, "sem-timedwait") == 0) {
        sem_t sem;
        struct timespec when = in_future(CLOCK_REALTIME);
        sem_init(&sem, 0, 0);
        rc = sem_timedwait(&sem, &when);
        if (rc != 0 && errno == ETIMEDOUT)
            return 0;
    } else {
        fprintf(stderr, "unknown kind %s\n", kind);
        exit(2);
    }
    return rc == 0 ? 0 : errno;
}

static int sem_id = -1, ends[2];

static void wake_on_input(pid_t parent)
{
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(0, &byte, 1) != 1)
        _exit(0);
    struct sembuf up = {0, 1, 0};
    if (semop(sem_id, &up, 1) != 0 || write(ends[1], &byte, 1) != 1)
        _exit(1);
    kill(parent, SIGUSR1);
    for (;;)
        pause();
}

/* errno of a call without a time-out, or 0 where it returned what it was to wait for. */
static int endless_call(const char *kind)
{
    struct sembuf down = {0, -1, 0};
    struct epoll_event event = {.events = EPOLLIN};
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sem_id = semget(IPC_PRIVATE, 1, 0600);
    int poller = epoll_create1(0);
    if (sem_id < 0 || pipe(ends) != 0 || epoll_ctl(poller, EPOLL_CTL_ADD, ends[0], &event) != 0)
        return errno;
    pid_t parent = getpid(), child = fork();
    if (child == 0)
        wake_on_input(parent);
    printf("ready\n");
    fflush(stdout);
    errno = 0;
    long rc = -1;
    if (strcmp(kind, "epoll-wait") == 0)
        rc = epoll_wait(poller, &event, 1, -1) - 1;
    else if (strcmp(kind, "semop") == 0)
        rc = semop(sem_id, &down, 1);
    else if (strcmp(kind, "sigtimedwait") == 0) /* libc's tries again by itself */
        rc = syscall(SYS_rt_sigtimedwait, &set, &info, NULL, sizeof(uint64_t)) - SIGUSR1;
    int error = rc == 0 ? 0 : errno != 0 ? errno : ENOMSG;
    semctl(sem_id, 0, IPC_RMID);
    kill(child, SIGKILL);
    return error;
}

/* With slow_malloc.c preloaded, inside malloc until a byte comes. */
static int slow_malloc(void)
{
    void *volatile block = malloc(123456789);
    free(block);
    return 0;
}

static int endless(const char *kind)
{
    int error = strcmp(kind, "malloc") == 0 ? slow_malloc() : endless_call(kind);
    printf("%s: %s\n", error == 0 ? "beat" : kind, strerror(error));
    fflush(stdout);
    return error == 0 ? 0 : 3;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    if (strcmp(kind, "epoll-wait") == 0 || strcmp(kind, "semop") == 0 ||
        strcmp(kind, "sigtimedwait") == 0 || strcmp(kind, "malloc") == 0)
        return endless(kind);
    printf("ready\n");
    fflush(stdout);
    for (unsigned long n = 1;; n++) {
        double start_ms = now_ms();
        int error = call(kind);
        double took_ms = now_ms() - start_ms;
        if (error != 0 || took_ms < CALL_MS || took_ms > 3 * CALL_MS + 30000) {
            printf("%s: %s after %.1f of %d ms\n", kind, strerror(error), took_ms, CALL_MS);
            fflush(stdout);
            return 3;
        }
        printf("beat %lu\n", n);
        fflush(stdout);
    }
}
