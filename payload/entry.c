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
#define INIT_POLL_NS 1000000

__attribute__((visibility("default"))) void tm_payload_start(struct tm_boot *boot);

extern struct tm_state tm_state_export;

static struct tm_agent agent;
static pthread_key_t exit_key;

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
}

/* A program that is just starting: tm-attach may be faster than its interpreter. */
static bool wait_initialized(const struct tm_boot *boot)
{
    uint64_t end_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), timeout_ms(boot));
    struct timespec pause_time = {.tv_nsec = INIT_POLL_NS};

    while (!tm_py.Py_IsInitialized()) {
        if (tm_clock_monotonic_ns() >= end_ns)
            return false;
        nanosleep(&pause_time, NULL);
    }
    return true;
}

/* Under the GIL, which it waits for with a bound. False: failed and reported. */
static bool set_up_engine(struct tm_boot *boot)
{
    char message[sizeof(boot->message)] = "";
    int gil, status;

    if (!wait_initialized(boot)) {
        fail(boot, TM_BOOT_E_PYTHON, "the Python interpreter is not initialized");
        return false;
    }
    atomic_store(&boot->phase, TM_BOOT_WAIT_GIL);
    if (tm_gil_make(timeout_ms(boot)) < 0) {
        snprintf(message, sizeof(message),
                 "the program has no GIL, because it never started a thread, and executed no Python "
                 "for %llu ms that could make one; try again when it is busy",
                 (unsigned long long)timeout_ms(boot));
        fail(boot, TM_BOOT_E_GIL, message);
        return false;
    }
    status = tm_gil_take_bounded(timeout_ms(boot), give_up, boot, &gil);
    if (status == -EAGAIN)
        fail(boot, TM_BOOT_E_RESOURCE, "the process cannot have one more thread");
    else if (status == -ENODEV)
        fail(boot, TM_BOOT_E_PYTHON, "the Python interpreter is shutting down");
    if (status < 0)
        return false; /* -ETIMEDOUT: give_up has told */
    status = tm_tracer_setup(&boot->layout, message, sizeof(message));
    tm_gil_drop(gil);
    if (status < 0)
        fail(boot, -status, message);
    return status >= 0;
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
    for (;;)
        pause();
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
    tm_state_export.agent_alive = 0;
    tm_state_export.control_fd = -1;
}

void tm_payload_start(struct tm_boot *boot)
{
    sigset_t all;

    if (boot->magic != TM_BOOT_MAGIC)
        return;
    atomic_store(&boot->phase, TM_BOOT_STARTED);
    /* sigprocmask acts on the calling thread, and has one old name in every libc. */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    prctl(PR_SET_NAME, "tm-agent");
    if (!prepare(boot))
        return;
    bool up = set_up_engine(boot);
    if (up)
        serve(boot);
    tm_agent_done(&agent);
    pthread_key_delete(exit_key);
    if (!up) {
        /* The main thread may be on its way into our pending call, or out of it. */
        if (tm_gil_call_is_queued())
            stay_mapped();
        return;
    }
    atomic_store(&boot->phase, TM_BOOT_ENDED);
    if (!agent.may_unload)
        stay_mapped();
}
