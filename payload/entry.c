// SPDX-License-Identifier: MIT
/*
 * From dlopen to the agent and back: tm_payload_start.
 *
 * Runs on the new thread that tm-attach had made in the target; the thread
 * becomes the agent. When the function returns, the caller (the stub, see
 * format/boot.h) dlcloses the payload, so nothing of ours may then be reachable
 * for any thread of the program.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "format/boot.h"
#include "format/state.h"
#include "payload/agent.h"
#include "payload/clock.h"
#include "payload/gil.h"
#include "payload/pyapi.h"
#include "payload/tracer.h"

#define GIL_TIMEOUT_MS 10000
#define INIT_POLL_NS 200000

__attribute__((visibility("default"))) void tm_payload_start(struct tm_boot *boot);

extern struct tm_state tm_state_export;

#define PREDECESSOR_TIMEOUT_MS 10000
#define PREDECESSOR_POLL_NS 1000000

static struct tm_agent agent;
static pthread_key_t exit_key;
/* The process whose agent has these variables; a forked child's parent is not the child's. */
static _Atomic pid_t serving_pid;

static void fail(struct tm_boot *boot, enum tm_boot_error error, const char *message)
{
    snprintf(boot->message, sizeof(boot->message), "%s", message);
    boot->error = error;
    atomic_store(&boot->phase, TM_BOOT_FAILED);
}

static uint64_t timeout_ms(const struct tm_boot *boot)
{
    return boot->gil_timeout_ms ? boot->gil_timeout_ms : GIL_TIMEOUT_MS;
}

static void give_up(void *arg)
{
    struct tm_boot *boot = arg;
    char message[96];

    snprintf(message, sizeof(message), "no thread of the program gave the GIL free for %llu ms",
             (unsigned long long)timeout_ms(boot));
    fail(boot, TM_BOOT_E_GIL, message);
}

/* PyGILState_Ensure ended this thread because the interpreter goes down: nobody serves the channel
 * any more. The payload stays mapped, because the stub's frame is gone with the thread. */
static void on_thread_exit(void *arg)
{
    struct tm_boot *boot = arg;

    tm_state_export.agent_alive = 0;
    tm_state_export.control_fd = -1;
    tm_agent_done(&agent);
    if (atomic_load(&boot->phase) == TM_BOOT_WAIT_GIL)
        fail(boot, TM_BOOT_E_PYTHON, "the Python interpreter is shutting down");
    atomic_store(&serving_pid, 0);
}

/* An extension that the program has imported serves one attach after the other: the last agent may
 * be about to end. */
static bool wait_for_predecessor(void)
{
    uint64_t end_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), PREDECESSOR_TIMEOUT_MS);
    struct timespec pause_time = {.tv_nsec = PREDECESSOR_POLL_NS};
    pid_t own = getpid(), found = 0;

    while (!atomic_compare_exchange_strong(&serving_pid, &found, own)) {
        if (found == own && tm_clock_monotonic_ns() >= end_ns)
            return false;
        if (found == own) {
            nanosleep(&pause_time, NULL);
            found = 0;
        }
    }
    return true;
}

/* A program that is just starting: tm-attach may be faster than its interpreter. */
static bool wait_initialized(const struct tm_boot *boot)
{
    uint64_t end_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), timeout_ms(boot));
    struct timespec pause_time = {.tv_nsec = INIT_POLL_NS};

    while (!tm_py.Py_IsInitialized()) {
        /* One that goes down is not initialized any more either; tm_gil_take tells. */
        if (tm_py.Py_IsFinalizing && tm_py.Py_IsFinalizing())
            return true;
        if (tm_clock_monotonic_ns() >= end_ns)
            return false;
        nanosleep(&pause_time, NULL);
    }
    return true;
}

static void hold_forks(void *arg)
{
    struct tm_boot *boot = arg;
    void (*hold)(struct tm_boot *);

    memcpy(&hold, &boot->hold_forks_addr, sizeof(hold));
    if (hold != NULL)
        hold(boot);
}

static void let_fork(void *arg)
{
    struct tm_boot *boot = arg;

    atomic_store(&boot->loader_busy, 0);
}

/* Under the GIL, which it waits for with a bound. False: failed and reported. */
static bool set_up_engine(struct tm_boot *boot)
{
    char message[sizeof(boot->message)] = "";
    struct tm_gil_start start = {.timeout_ms = timeout_ms(boot),
                                 .give_up = give_up,
                                 .hold_forks = hold_forks,
                                 .let_fork = let_fork,
                                 .arg = boot};
    int gil, status;

    if (!wait_initialized(boot)) {
        fail(boot, TM_BOOT_E_PYTHON, "the Python interpreter is not initialized");
        return false;
    }
    atomic_store(&boot->phase, TM_BOOT_WAIT_GIL);
    if (tm_gil_make(timeout_ms(boot)) < 0) {
        snprintf(
            message, sizeof(message),
            "the program has no GIL, because it never started a thread, and executed no Python "
            "for %llu ms that could make one; try again when it is busy",
            (unsigned long long)timeout_ms(boot));
        fail(boot, TM_BOOT_E_GIL, message);
        return false;
    }
    status = tm_gil_take_bounded(&start, &gil);
    if (status == -EAGAIN)
        fail(boot, TM_BOOT_E_RESOURCE, "the process cannot have one more thread");
    else if (status == -ENOMEM)
        fail(boot, TM_BOOT_E_RESOURCE, "no memory for a thread state");
    else if (status == -ENODEV)
        fail(boot, TM_BOOT_E_PYTHON, "the Python interpreter is shutting down");
    if (status < 0)
        return false; /* -ETIMEDOUT: give_up has told */
    status = tm_tracer_setup(&boot->layout, message, sizeof(message));
    if (status < 0) {
        tm_gil_drop_last(gil);
        fail(boot, -status, message);
        return false;
    }
    tm_gil_drop(gil);
    return true;
}

static bool prepare(struct tm_boot *boot)
{
    char message[sizeof(boot->message)] = "";

    if (boot->version != TM_BOOT_VERSION || boot->size_bytes != sizeof(*boot)) {
        fail(boot, TM_BOOT_E_VERSION, "tm-attach and its payload are of different versions");
        return false;
    }
    if (!tm_pyapi_load(message, sizeof(message))) {
        fail(boot, TM_BOOT_E_PYTHON, message);
        return false;
    }
    if (tm_agent_init(&agent, message, sizeof(message)) < 0 ||
        pthread_key_create(&exit_key, on_thread_exit)) {
        tm_agent_done(&agent);
        fail(boot, TM_BOOT_E_RESOURCE, message[0] ? message : "no thread-specific key is left");
        return false;
    }
    pthread_setspecific(exit_key, boot);
    return true;
}

/* A thread may be inside our code for ever, or another tool calls us: one more reference, so that
 * the stub's dlclose does not unmap. Where the loader gives none, this thread never returns. */
static void stay_mapped(void)
{
    Dl_info info;

    if (dladdr((void *)(uintptr_t)tm_payload_start, &info) && info.dli_fname &&
        dlopen(info.dli_fname, RTLD_NOLOAD | RTLD_LAZY))
        return;
    prctl(PR_SET_NAME, "tm-stays"); /* it is an agent no more */
    for (;;)
        pause();
}

/*
 * The loader knows us as /proc/thread-self/fd/N, which is another file for everyone who reads the
 * list of libraries from outside: gdb would open its own descriptor N, and wait for ever if that is
 * a pipe. So the name is overwritten, in the loader's own string, by one that no file has. It stays
 * unique, as the loader finds libraries by it.
 */
static void change_name(void)
{
    static const char old[] = "/proc/thread-self/fd/";
    static const char digits[] = "0123456789abcdef";
    Dl_info info;

    if (!dladdr((void *)(uintptr_t)tm_payload_start, &info) || info.dli_fname == NULL ||
        strncmp(info.dli_fname, old, strlen(old)) != 0)
        return;
    char name[64] = "/memfd:" TM_MEMFD_PREFIX;
    size_t n_bytes = strlen(name);
    for (int shift = 44; shift >= 0; shift -= 4)
        name[n_bytes++] = digits[(uint64_t)(uintptr_t)&tm_state_export >> shift & 15];
    name[n_bytes++] = '\0';
    if (strlen(info.dli_fname) + 1 >= n_bytes)
        memcpy((char *)(uintptr_t)info.dli_fname, name, n_bytes);
}

static void serve(struct tm_boot *boot)
{
    tm_state_export.pid = getpid();
    tm_agent_publish_channel(&agent);
    tm_state_export.agent_alive = 1;
    boot->state_addr = (uint64_t)(uintptr_t)&tm_state_export;
    boot->control_fd = tm_state_export.control_fd;
    atomic_store(&boot->phase, TM_BOOT_RUNNING);
    tm_agent_run(&agent);
    tm_gil_drop_state();
    tm_state_export.agent_alive = 0;
    tm_state_export.control_fd = -1;
}

/* Notes the path of the payload that the program itself has loaded as a Python extension. */
static int note_extension(struct dl_phdr_info *info, size_t info_bytes, void *path)
{
    const char *base = info->dlpi_name ? strrchr(info->dlpi_name, '/') : NULL;

    (void)info_bytes;
    if (base == NULL ||
        (strcmp(base, "/_pytracemalloc.so") != 0 && strcmp(base, "/libtm-payload.so") != 0))
        return 0;
    snprintf(path, PATH_MAX, "%s", info->dlpi_name);
    return 1;
}

/* One process has one tracer: where the program has imported pytracemalloc, that copy is the agent,
 * and this one goes. */
static bool hand_over(struct tm_boot *boot)
{
    static char path[PATH_MAX];
    void (*start)(struct tm_boot *) = NULL;

    if (!dl_iterate_phdr(note_extension, path))
        return false;
    void *handle = dlopen(path, RTLD_NOLOAD | RTLD_LAZY);
    void *symbol = handle ? dlsym(handle, "tm_payload_start") : NULL;
    memcpy(&start, &symbol, sizeof(start));
    if (start == NULL || start == tm_payload_start)
        return false;
    tm_state_export.magic = 0; /* who looks for the state goes on to the other copy's */
    let_fork(boot);
    start(boot);
    return true;
}

/* The agent from its beginning to its end. False: our code must stay mapped. */
static bool live(struct tm_boot *boot)
{
    if (!prepare(boot))
        return true;
    change_name();
    bool up = set_up_engine(boot);
    if (up)
        serve(boot);
    tm_agent_done(&agent);
    pthread_key_delete(exit_key);
    if (!up) {
        /* The main thread may yet come to our pending call: nobody can take that back. */
        tm_gil_wait_for_call();
        return true;
    }
    atomic_store(&boot->phase, TM_BOOT_ENDED);
    return agent.may_unload;
}

void tm_payload_start(struct tm_boot *boot)
{
    sigset_t all;

    if (boot->magic != TM_BOOT_MAGIC || hand_over(boot))
        return;
    let_fork(boot);
    atomic_store(&boot->phase, TM_BOOT_STARTED);
    /* sigprocmask acts on the calling thread, and has one old name in every libc. */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    prctl(PR_SET_NAME, "tm-agent");
    if (!wait_for_predecessor()) {
        fail(boot, TM_BOOT_E_RESOURCE, "the agent of an earlier attach has not ended");
        return;
    }
    bool stays = !live(boot);
    atomic_store(&serving_pid, 0);
    if (stays)
        stay_mapped();
}
