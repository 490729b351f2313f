// SPDX-License-Identifier: MIT
#include "payload/gil.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "payload/clock.h"
#include "payload/pyapi.h"

enum { WAITING = 0, TAKEN = 1, GIVEN_UP = 2 };

struct watch {
    _Atomic uint32_t outcome; /* whoever changes it from WAITING decides */
    uint64_t deadline_ns;
    void (*give_up)(void *arg);
    void *arg;
};

/* Not on the stack: the waiting thread may be ended inside PyGILState_Ensure while the other one
 * still looks. There is one agent, and it starts once. */
static struct watch watch;

/* ---- making it ---- */

#define MAKE_POLL_NS 1000000
#define FIRST_WITH_GIL_ALWAYS 0x03070000

/* How long the main thread may take from the call's last word to its return: a few instructions,
 * and whatever the scheduler puts between them. */
#define CALL_RETURN_S 2

static _Atomic bool call_queued;
static _Atomic uint32_t call_done; /* a futex */

static int make_on_main_thread(void *unused)
{
    (void)unused;
    tm_py.PyEval_InitThreads();
    atomic_store(&call_done, 1);
    syscall(SYS_futex, &call_done, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    return 0;
}

static bool gil_exists(void)
{
    return tm_py.version_hex >= FIRST_WITH_GIL_ALWAYS || tm_py.PyEval_ThreadsInitialized == NULL ||
           tm_py.PyEval_InitThreads == NULL || tm_py.PyEval_ThreadsInitialized();
}

void tm_gil_make_here(void)
{
    if (!gil_exists())
        tm_py.PyEval_InitThreads();
}

int tm_gil_make(uint64_t timeout_ms)
{
    uint64_t end_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), timeout_ms);
    struct timespec pause_time = {.tv_nsec = MAKE_POLL_NS};

    while (!gil_exists()) {
        /* The queue may be full, or locked for a moment. */
        if (!atomic_load(&call_queued) && tm_py.Py_AddPendingCall(make_on_main_thread, NULL) == 0)
            atomic_store(&call_queued, true);
        if (tm_clock_monotonic_ns() >= end_ns)
            return -ETIMEDOUT;
        nanosleep(&pause_time, NULL);
    }
    return 0;
}

void tm_gil_wait_for_call(void)
{
    struct timespec pause_time = {.tv_sec = CALL_RETURN_S};

    if (!atomic_load(&call_queued))
        return;
    while (!atomic_load(&call_done))
        syscall(SYS_futex, &call_done, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    nanosleep(&pause_time, NULL);
}

int tm_gil_take(int *ret_state)
{
    if (!tm_py.Py_IsInitialized() || (tm_py.Py_IsFinalizing && tm_py.Py_IsFinalizing()))
        return -ENODEV;
    *ret_state = tm_py.PyGILState_Ensure();
    return 0;
}

void tm_gil_drop(int state)
{
    tm_py.PyGILState_Release(state);
}

static bool decide(uint32_t outcome)
{
    uint32_t expected = WAITING;

    return atomic_compare_exchange_strong(&watch.outcome, &expected, outcome);
}

static void *watch_main(void *unused)
{
    (void)unused;
    for (;;) {
        uint64_t now_ns = tm_clock_monotonic_ns();
        if (atomic_load(&watch.outcome) != WAITING)
            break;
        if (now_ns >= watch.deadline_ns) {
            if (decide(GIVEN_UP))
                watch.give_up(watch.arg);
            break;
        }
        uint64_t left_ns = watch.deadline_ns - now_ns;
        struct timespec left = {.tv_sec = (time_t)(left_ns / TM_NS_PER_S),
                                .tv_nsec = (long)(left_ns % TM_NS_PER_S)};
        syscall(SYS_futex, &watch.outcome, FUTEX_WAIT_PRIVATE, WAITING, &left, NULL, 0);
    }
    return NULL;
}

int tm_gil_take_bounded(uint64_t timeout_ms, void (*give_up)(void *arg), void *arg, int *ret_state)
{
    pthread_t watcher;

    watch.deadline_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), timeout_ms);
    watch.give_up = give_up;
    watch.arg = arg;
    atomic_store(&watch.outcome, WAITING);
    if (pthread_create(&watcher, NULL, watch_main, NULL))
        return -EAGAIN;
    int status = tm_gil_take(ret_state);
    bool in_time = decide(TAKEN);
    syscall(SYS_futex, &watch.outcome, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    /* It waits for nothing any more; our code must not be unmapped under it. Joining with the GIL
     * held is short. */
    pthread_join(watcher, NULL);
    if (status == 0 && !in_time) {
        tm_gil_drop(*ret_state);
        status = -ETIMEDOUT;
    }
    return status;
}
