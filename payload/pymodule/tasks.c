// SPDX-License-Identifier: MIT
#include "payload/pymodule/tasks.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "payload/clock.h"
#include "payload/gil.h"
#include "payload/layout.h"
#include "payload/pymodule/snaptask.h"
#include "payload/tracer.h"
#include "payload/watch.h"

#define MAIN_THREAD_MS 100
#define STOP_MS 5000
#define ENDLESS UINT64_MAX

struct task {
    PyObj *object;           /* a reference */
    uint64_t delay_ns;       /* 0: no timer */
    int64_t threshold_bytes; /* 0: none */
    uint64_t left;           /* calls to come; ENDLESS */
    uint64_t serial;         /* changes when it is scheduled anew */
    bool armed, due;
    uint64_t due_ns; /* TM_NEVER: no timer */
    int64_t low_bytes, high_bytes;
};

/* GIL */
static struct task *tasks;
static size_t n_tasks, tasks_capacity;
static uint64_t last_serial;
static bool running;
static pid_t owner;
static bool thread_started;
static pthread_t thread;

/* Somebody is to look at the tasks, since when, and whether a pending call is in Python's queue. */
static _Atomic uint32_t wanted, queued;
static _Atomic uint64_t wanted_ns;
/* For the thread: the earliest timer, its wake-up word, whether it is to end, whether it has. */
static _Atomic uint64_t next_due_ns = TM_NEVER;
static _Atomic uint32_t bell, stopping, ended;
static _Atomic uint32_t task_count; /* n_tasks, for the thread */
static const int *finishing;        /* see queue_is_open; set before a task is scheduled */

static void ring(void)
{
    atomic_fetch_add(&bell, 1);
    syscall(SYS_futex, &bell, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void serve(void);

static int pending_call(void *unused)
{
    (void)unused;
    atomic_store(&queued, 0);
    if (atomic_load(&wanted))
        serve();
    return 0;
}

/*
 * 3.8 prints a SystemError from Py_AddPendingCall, of whatever thread, once the interpreter has
 * begun to end, which is before atexit tells us (pending.finishing in Python/ceval.c). That is
 * decided under the GIL, so that only who holds it may ask; others leave it to our thread.
 */
static bool queue_is_open(void)
{
    if (tm_py.version_hex >> 16 != 0x0308)
        return true;
    tm_py_tstate *tstate = tm_py.PyGILState_GetThisThreadState();
    return finishing != NULL && tstate != NULL && tstate == tm_py.UncheckedGet() &&
           __atomic_load_n(finishing, __ATOMIC_ACQUIRE) == 0;
}

static bool enqueue(void)
{
    return queue_is_open() && tm_py.Py_AddPendingCall(pending_call, NULL) == 0;
}

/* The queue is bounded, and one call serves all. Where it is full the thread does it. */
static void ask_main_thread(void)
{
    if (atomic_exchange(&queued, 1) == 0 && !enqueue())
        atomic_store(&queued, 0);
}

/* Any thread, also inside a hook: takes no lock of ours, allocates nothing. */
static void request(void)
{
    if (!atomic_load(&wanted)) {
        atomic_store(&wanted_ns, tm_clock_monotonic_ns());
        atomic_store(&wanted, 1);
    }
    ask_main_thread();
}

static void crossed(void)
{
    int saved_errno = errno;
    request();
    ring();
    errno = saved_errno;
}

/* ---- the list ---- */

static struct task *find(PyObj *object)
{
    for (size_t i = 0; i < n_tasks; i++)
        if (tasks[i].object == object)
            return &tasks[i];
    return NULL;
}

/* Puts the earliest timer and the narrowest window in force. */
static void retune(void)
{
    uint64_t earliest = TM_NEVER;
    int64_t low = -1, high = INT64_MAX;
    bool any = false;
    for (size_t i = 0; i < n_tasks; i++) {
        const struct task *task = &tasks[i];
        if (!task->armed)
            continue;
        if (task->due_ns < earliest)
            earliest = task->due_ns;
        if (task->threshold_bytes == 0)
            continue;
        any = true;
        if (task->low_bytes > low)
            low = task->low_bytes;
        if (task->high_bytes < high)
            high = task->high_bytes;
    }
    if (any)
        tm_watch_set(TM_WATCH_TASKS, low, high, crossed);
    else
        tm_watch_clear(TM_WATCH_TASKS);
    bool were_tasks = atomic_exchange(&task_count, (uint32_t)n_tasks) != 0;
    if (atomic_exchange(&next_due_ns, earliest) != earliest || (were_tasks && n_tasks == 0))
        ring();
}

static void centre(struct task *task)
{
    int64_t traced = (int64_t)tm_tracer_totals().traced_bytes;
    task->armed = true;
    task->due = false;
    task->due_ns = TM_NEVER;
    if (task->delay_ns != 0 &&
        __builtin_add_overflow(tm_clock_monotonic_ns(), task->delay_ns, &task->due_ns))
        task->due_ns = TM_NEVER;
    task->low_bytes = traced > task->threshold_bytes ? traced - task->threshold_bytes : 0;
    if (__builtin_add_overflow(traced, task->threshold_bytes, &task->high_bytes))
        task->high_bytes = INT64_MAX;
}

static void remove_task(struct task *task)
{
    PyObj *object = task->object;
    size_t at = (size_t)(task - tasks);
    for (size_t i = at + 1; i < n_tasks; i++)
        tasks[i - 1] = tasks[i];
    n_tasks--;
    tm_py_decref(object); /* may run anything: the list is in order by now */
}

/* ---- calling ---- */

static void mark_due(void)
{
    uint64_t now_ns = tm_clock_monotonic_ns();
    int64_t low, high;
    tm_watch_take(TM_WATCH_TASKS, &low, &high);
    for (size_t i = 0; i < n_tasks; i++) {
        struct task *task = &tasks[i];
        if (task->armed &&
            (now_ns >= task->due_ns || (task->threshold_bytes != 0 &&
                                        (low <= task->low_bytes || high >= task->high_bytes)))) {
            task->due = true;
            task->armed = false;
        }
    }
}

static struct task *first_due(void)
{
    for (size_t i = 0; i < n_tasks; i++)
        if (tasks[i].due)
            return &tasks[i];
    return NULL;
}

/* False with an exception. */
static bool call_object(PyObj *object)
{
    enum tm_snaptask_outcome outcome = tm_snaptask_call(object);
    if (outcome != TM_SNAPTASK_NOT_PLAIN)
        return outcome == TM_SNAPTASK_DONE;
    PyObj *result = tm_pyf.PyObject_CallMethod(object, "call", NULL);
    tm_py_decref(result);
    return result != NULL;
}

/* The list may be another one when the call returns: the task is looked up again. */
static void call(struct task *task)
{
    PyObj *object = tm_py_incref(task->object);
    uint64_t serial = task->serial;
    task->due = false;
    if (task->left != ENDLESS)
        task->left--;
    bool failed = !call_object(object);
    if (failed)
        tm_pyf.PyErr_WriteUnraisable(object);
    task = find(object);
    if (task != NULL && task->serial == serial) {
        if (failed || task->left == 0)
            remove_task(task);
        else
            centre(task);
    }
    tm_py_decref(object);
}

/* GIL. Calls what is due, one after the other. */
static void serve(void)
{
    struct task *task;
    tm_tasks_sync();
    if (running)
        return; /* the one who runs looks again */
    running = true;
    do {
        atomic_store(&wanted, 0);
        mark_due();
        while ((task = first_due()) != NULL) {
            call(task);
            mark_due();
        }
    } while (atomic_load(&wanted));
    running = false;
    retune();
}

/* ---- the thread ---- */

static void wait_for_bell(uint32_t seen, uint64_t until_ns)
{
    struct timespec left, *timeout = NULL;
    if (until_ns != TM_NEVER) {
        uint64_t now_ns = tm_clock_monotonic_ns();
        uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
        left = (struct timespec){.tv_sec = (time_t)(left_ns / TM_NS_PER_S),
                                 .tv_nsec = (long)(left_ns % TM_NS_PER_S)};
        timeout = &left;
    }
    syscall(SYS_futex, &bell, FUTEX_WAIT_PRIVATE, seen, timeout, NULL, 0);
}

static bool serve_from_here(void)
{
    int gil;
    if (tm_gil_take(&gil) < 0)
        return false; /* the interpreter goes down */
    if (atomic_load(&wanted) && !atomic_load(&stopping)) {
        if (running)
            atomic_store(&wanted_ns, tm_clock_monotonic_ns());
        serve();
    }
    tm_gil_drop(gil);
    return true;
}

/* Where only who holds the GIL may ask, see queue_is_open. */
static bool ask_from_here(void)
{
    int gil;
    if (finishing == NULL || atomic_load(&queued))
        return true;
    if (tm_gil_take(&gil) < 0)
        return false;
    if (atomic_load(&wanted) && !atomic_load(&stopping))
        ask_main_thread();
    tm_gil_drop(gil);
    return true;
}

/* False: it must end. True: tasks came meanwhile. */
static bool ends_for_want_of_tasks(void)
{
    if (atomic_load(&task_count) != 0)
        return false;
    atomic_store(&ended, 1);
    return atomic_load(&task_count) == 0 || atomic_exchange(&ended, 0) == 0;
}

/* It lives as long as there are tasks: a process with one thread stays one (from 3.12 on os.fork
 * warns where there are more). */
static void *thread_main(void *unused)
{
    (void)unused;
    prctl(PR_SET_NAME, "tm-tasks");
    while (!atomic_load(&stopping)) {
        if (ends_for_want_of_tasks())
            return NULL;
        uint32_t seen = atomic_load(&bell);
        uint64_t due_ns = atomic_load(&next_due_ns), now_ns = tm_clock_monotonic_ns();
        if (now_ns >= due_ns) {
            atomic_compare_exchange_strong(&next_due_ns, &due_ns, TM_NEVER);
            due_ns = TM_NEVER;
            request();
        }
        if (atomic_load(&wanted)) {
            uint64_t patience_ns = tm_clock_after_ms(atomic_load(&wanted_ns), MAIN_THREAD_MS);
            if (now_ns >= patience_ns) {
                if (!serve_from_here())
                    break;
                continue;
            }
            if (!ask_from_here())
                break;
            if (patience_ns < due_ns)
                due_ns = patience_ns;
        }
        wait_for_bell(seen, due_ns);
    }
    atomic_store(&ended, 1);
    return NULL;
}

/* Where the thread is about to end for want of tasks, whoever takes `ended` back decides: it goes
 * on, or another one is started. */
static bool start_thread(void)
{
    sigset_t all, before;
    if (thread_started) {
        if (atomic_exchange(&ended, 0) == 0)
            return true;
        pthread_join(thread, NULL);
    }
    tm_gil_make_here();
    atomic_store(&stopping, 0);
    atomic_store(&ended, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    thread_started = pthread_create(&thread, NULL, thread_main, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!thread_started)
        tm_py_raise(tm_pyf.runtime_error, "cannot start the thread of the tasks");
    return thread_started;
}

bool tm_tasks_stop(void)
{
    tm_tasks_cancel_all();
    if (thread_started && !pthread_equal(thread, pthread_self())) {
        uint64_t end_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), STOP_MS);
        struct timespec pause_time = {.tv_nsec = 1000000};
        atomic_store(&stopping, 1);
        ring();
        tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
        while (!atomic_load(&ended) && tm_clock_monotonic_ns() < end_ns)
            nanosleep(&pause_time, NULL);
        if (atomic_load(&ended)) {
            pthread_join(thread, NULL);
            thread_started = false;
        }
        tm_pyf.PyEval_RestoreThread(tstate);
    }
    return !thread_started && !running && !atomic_load(&queued);
}

void tm_tasks_sync(void)
{
    if (owner == getpid())
        return;
    bool first = owner == 0;
    owner = getpid();
    if (first)
        return;
    thread_started = false;
    running = false;
    atomic_store(&wanted, 0);
    atomic_store(&next_due_ns, TM_NEVER);
    tm_tasks_cancel_all();
}

void tm_tasks_cancel_all(void)
{
    while (n_tasks > 0)
        remove_task(&tasks[n_tasks - 1]);
    free(tasks);
    tasks = NULL;
    tasks_capacity = 0;
    atomic_store(&wanted, 0);
    retune();
}

/* ---- for Python ---- */

static void set_terms(struct task *task, long long delay_s, long long threshold_bytes)
{
    if (__builtin_mul_overflow((uint64_t)delay_s, TM_NS_PER_S, &task->delay_ns))
        task->delay_ns = TM_NEVER;
    task->threshold_bytes = threshold_bytes;
}

/* What has happened is for the windows and timers that were in force till now. */
static void settle(void)
{
    mark_due();
    if (first_due() != NULL) {
        request();
        ring();
    }
}

/* A call that is due stays due, and centres the task when it has been made. */
static void change(struct task *task, long long delay_s, long long threshold_bytes)
{
    settle();
    set_terms(task, delay_s, threshold_bytes);
    if (!task->due)
        centre(task);
}

static struct task *add(PyObj *object)
{
    struct task *task = find(object);
    if (task != NULL)
        return task;
    if (n_tasks == tasks_capacity) {
        size_t capacity = tasks_capacity ? tasks_capacity * 2 : 8;
        struct task *grown = realloc(tasks, capacity * sizeof(*grown));
        if (grown == NULL) {
            tm_pyf.PyErr_NoMemory();
            return NULL;
        }
        tasks = grown;
        tasks_capacity = capacity;
    }
    task = &tasks[n_tasks++];
    *task = (struct task){.object = tm_py_incref(object)};
    return task;
}

PyObj *tm_tasks_py_schedule(PyObj *self, PyObj *args)
{
    PyObj *object;
    long long delay_s, threshold_bytes, repeat;
    (void)self;
    tm_tasks_sync();
    if (!tm_pyf.PyArg_ParseTuple(args, "OLLL", &object, &delay_s, &threshold_bytes, &repeat))
        return NULL;
    struct task *task = add(object);
    if (task == NULL)
        return NULL;
    if (finishing == NULL)
        finishing = tm_layout_find_finishing();
    atomic_store(&task_count, (uint32_t)n_tasks);
    if (!start_thread()) {
        remove_task(find(object));
        retune();
        return NULL;
    }
    task->left = repeat > 0 ? (uint64_t)repeat : ENDLESS;
    task->serial = ++last_serial;
    settle();
    set_terms(task, delay_s, threshold_bytes);
    centre(task);
    retune();
    return tm_py_none();
}

PyObj *tm_tasks_py_change(PyObj *self, PyObj *args)
{
    PyObj *object;
    long long delay_s, threshold_bytes;
    (void)self;
    tm_tasks_sync();
    if (!tm_pyf.PyArg_ParseTuple(args, "OLL", &object, &delay_s, &threshold_bytes))
        return NULL;
    struct task *task = find(object);
    if (task != NULL && delay_s == 0 && threshold_bytes == 0)
        remove_task(task);
    else if (task != NULL)
        change(task, delay_s, threshold_bytes);
    retune();
    return tm_py_none();
}

PyObj *tm_tasks_py_cancel(PyObj *self, PyObj *object)
{
    (void)self;
    tm_tasks_sync();
    struct task *task = find(object);
    if (task != NULL) {
        remove_task(task);
        retune();
    }
    return tm_py_none();
}

PyObj *tm_tasks_py_is_scheduled(PyObj *self, PyObj *object)
{
    (void)self;
    tm_tasks_sync();
    return tm_pyf.PyBool_FromLong(find(object) != NULL);
}

PyObj *tm_tasks_py_list(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    tm_tasks_sync();
    PyObj *list = tm_pyf.PyList_New(0);
    for (size_t i = 0; list != NULL && i < n_tasks; i++) {
        if (tm_pyf.PyList_Append(list, tasks[i].object) < 0) {
            tm_py_decref(list);
            list = NULL;
        }
    }
    return list;
}

PyObj *tm_tasks_py_cancel_all(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    tm_tasks_sync();
    tm_tasks_cancel_all();
    return tm_py_none();
}
