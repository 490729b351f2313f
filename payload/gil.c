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

enum { GIL_WAS_HELD = 0, GIL_WAS_FREE = 1 }; /* PyGILState_STATE, Include/pystate.h */
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

static tm_py_tstate *own_state; /* of tm_gil_make_state */

/* ---- making it ---- */

#define MAKE_POLL_NS 1000000
#define CREATE_TRIES 100
#define FIRST_WITH_GIL_ALWAYS 0x03070000
#define FIRST_WITH_SAFE_FORK 0x030c0000

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

/* ---- taking it ---- */

static bool is_up(void)
{
    return tm_py.Py_IsInitialized() && !(tm_py.Py_IsFinalizing && tm_py.Py_IsFinalizing());
}

int tm_gil_take(int *ret_state)
{
    if (!is_up())
        return -ENODEV;
    *ret_state = tm_py.PyGILState_Ensure();
    return 0;
}

void tm_gil_drop(int state)
{
    tm_py.PyGILState_Release(state);
}

/* PyGILState_Ensure finds it, because PyThreadState_New notes it for the thread and counts one use
 * (Python/pystate.c, 2.7 to 3.13): so no Release of a pair ends it. */
int tm_gil_make_state(void)
{
    own_state = NULL;
    if (!is_up())
        return -ENODEV;
    if (tm_py.PyThreadState_New == NULL || tm_py.PyGILState_GetThisThreadState() != NULL)
        return 0;
    own_state = tm_py.PyThreadState_New(tm_py_main_interpreter());
    return own_state != NULL ? 0 : -ENOMEM;
}

bool tm_gil_has_ended(void)
{
    return own_state != NULL && tm_py.PyGILState_GetThisThreadState() != own_state;
}

void tm_gil_drop_last(int gil)
{
    bool there = own_state != NULL && !tm_gil_has_ended();

    own_state = NULL;
    if (there) {
        tm_py.PyGILState_Release(GIL_WAS_HELD); /* tm_gil_take's use of it */
        tm_py.PyGILState_Release(GIL_WAS_FREE); /* PyThreadState_New's, the last */
    } else {
        tm_py.PyGILState_Release(gil);
    }
}

void tm_gil_drop_state(void)
{
    int gil;

    if (tm_gil_has_ended())
        own_state = NULL;
    if (own_state != NULL && tm_gil_take(&gil) == 0)
        tm_gil_drop_last(gil);
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

/* From 3.12 on the child makes the lock of the list anew before it looks at the list. From 3.13 on
 * os.fork itself holds that lock (PyOS_BeforeFork): a fork that waited for us would make us wait.
 */
static int make_state_between_forks(const struct tm_gil_start *start)
{
    bool holds = tm_py.version_hex < FIRST_WITH_SAFE_FORK && start->hold_forks != NULL;

    if (holds)
        start->hold_forks(start->arg);
    int status = tm_gil_make_state();
    if (holds)
        start->let_fork(start->arg);
    return status;
}

/* A process has no new threads while one of its threads is inside exec, which may yet fail
 * (fs/exec.c, check_unsafe_exec; kernel/fork.c, copy_fs). */
static bool start_watcher(pthread_t *ret)
{
    struct timespec pause_time = {.tv_nsec = MAKE_POLL_NS};
    int status;

    for (int i = 0; (status = pthread_create(ret, NULL, watch_main, NULL)) == EAGAIN; i++) {
        if (i == CREATE_TRIES)
            break;
        nanosleep(&pause_time, NULL);
    }
    return status == 0;
}

int tm_gil_take_bounded(const struct tm_gil_start *start, int *ret_state)
{
    pthread_t watcher;

    watch.deadline_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), start->timeout_ms);
    watch.give_up = start->give_up;
    watch.arg = start->arg;
    atomic_store(&watch.outcome, WAITING);
    if (!start_watcher(&watcher))
        return -EAGAIN;
    int status = make_state_between_forks(start);
    if (status == 0)
        status = tm_gil_take(ret_state);
    bool in_time = decide(TAKEN);
    syscall(SYS_futex, &watch.outcome, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    /* It waits for nothing any more; our code must not be unmapped under it. Joining with the GIL
     * held is short. */
    pthread_join(watcher, NULL);
    if (status == 0 && !in_time) {
        tm_gil_drop_last(*ret_state);
        status = -ETIMEDOUT;
    }
    return status;
}
