// SPDX-License-Identifier: MIT
/*
 * calls KIND: one thread that makes blocking calls with a time-out and looks at what they return:
 * ends with a message where one was cut short (EINTR), came back too early, or took more than three
 * times as long as it was told to. Says "ready", then "beat N".
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
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

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    printf("ready\n");
    fflush(stdout);
    for (unsigned long n = 1;; n++) {
        double start_ms = now_ms();
        int error = call(kind);
        double took_ms = now_ms() - start_ms;
        if (error != 0 || took_ms < CALL_MS || took_ms > 3 * CALL_MS + 2000) {
            printf("%s: %s after %.1f of %d ms\n", kind, strerror(error), took_ms, CALL_MS);
            fflush(stdout);
            return 3;
        }
        printf("beat %lu\n", n);
        fflush(stdout);
    }
}
