// SPDX-License-Identifier: MIT
/*
 * An engine that traces nothing: what the agent calls, with numbers that a test
 * sets. It lets the agent be tested alone, in-process (no Python) and, linked
 * into a payload, in a live one.
 */
#include "tests/stub_engine/stub_engine.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "format/state.h"
#include "payload/hooks.h"
#include "payload/pyapi.h"
#include "payload/snapshot.h"
#include "payload/tracer.h"

__attribute__((visibility("default"))) extern struct tm_state tm_state_export;

struct tm_state tm_state_export = {
    .magic = TM_STATE_MAGIC,
    .version = TM_STATE_VERSION,
    .size_bytes = sizeof(struct tm_state),
    .control_fd = -1,
};
struct tm_pyapi tm_py;
void (*tm_hooks_on_fork)(void);
struct tm_stub_engine tm_stub;

void tm_stub_fence(void)
{
    static _Atomic unsigned fence;

    fence++;
}

static int always(void)
{
    return 1;
}

static int never(void)
{
    return 0;
}

static int ensure(void)
{
    tm_stub.gil_taken++;
    if (tm_stub.gil_wait_ms)
        usleep(tm_stub.gil_wait_ms * 1000);
    return 0;
}

static void release(int state)
{
    tm_stub_fence();
    (void)state;
    tm_stub.gil_dropped++;
}

bool tm_pyapi_load(char *message, size_t message_bytes)
{
    if (tm_stub.no_python) {
        snprintf(message, message_bytes, "no Python here");
        return false;
    }
    *(void **)&tm_py.Py_IsInitialized = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    *(void **)&tm_py.PyGILState_Ensure = dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
    *(void **)&tm_py.PyGILState_Release = dlsym(RTLD_DEFAULT, "PyGILState_Release");
    *(void **)&tm_py.Py_GetVersion = dlsym(RTLD_DEFAULT, "Py_GetVersion");
    if (!tm_py.PyGILState_Ensure) {
        tm_py.Py_IsInitialized = always;
        tm_py.PyGILState_Ensure = ensure;
        tm_py.PyGILState_Release = release;
        tm_py.Py_IsFinalizing = tm_stub.finalizing ? always : never;
    }
    snprintf(tm_py.version, sizeof(tm_py.version), "%.15s",
             tm_py.Py_GetVersion ? tm_py.Py_GetVersion() : "3.99.0");
    char *space = strchr(tm_py.version, ' ');
    if (space)
        *space = '\0';
    return true;
}

void *tm_py_main_interpreter(void)
{
    return NULL;
}

int tm_tracer_setup(const struct tm_layout *dwarf, char *message, size_t message_bytes)
{
    tm_stub_fence();
    (void)dwarf;
    if (tm_stub.setup_status)
        snprintf(message, message_bytes, "the layouts do not fit");
    return tm_stub.setup_status;
}

uint32_t tm_tracer_native_depth(void)
{
    return 0;
}

int tm_tracer_prepare_native(char *message, size_t message_bytes)
{
    (void)message, (void)message_bytes;
    return 0;
}

void tm_tracer_refresh_native(void)
{
}

int tm_tracer_enable(const struct tm_tracer_options *options, char *message, size_t message_bytes)
{
    tm_stub_fence();
    if (tm_stub.enable_status) {
        snprintf(message, message_bytes, "no memory for the store");
        return tm_stub.enable_status;
    }
    tm_stub.traceback_limit = options->traceback_limit;
    tm_stub.enabled = true;
    tm_stub_fence();
    return 0;
}

unsigned tm_tracer_change_begin(unsigned attempt)
{
    (void)attempt;
    return 0;
}

void tm_tracer_change_end(void)
{
}

enum tm_unhook tm_tracer_disable(void)
{
    tm_stub_fence();
    tm_stub.enabled = false;
    tm_stub_fence();
    return tm_stub.inert ? TM_UNHOOK_INERT : TM_UNHOOK_RESTORED;
}

bool tm_tracer_quiesce(int timeout_ms)
{
    (void)timeout_ms;
    return true;
}

int tm_tracer_set_filters(const struct tm_filter_spec *specs, size_t n_specs)
{
    (void)specs;
    tm_stub.filters_count = n_specs;
    return 0;
}

struct tm_restarts tm_tracer_restarts(void)
{
    return tm_stub.restarts;
}

void tm_tracer_measure(void)
{
}

void tm_tracer_trim(void)
{
    tm_stub.trims++;
}

bool tm_tracer_is_enabled(void)
{
    tm_stub_fence();
    bool result = tm_stub.enabled;
    tm_stub_fence();
    return result;
}

uint32_t tm_tracer_traceback_limit(void)
{
    tm_stub_fence();
    uint32_t result = tm_stub.traceback_limit;
    tm_stub_fence();
    return result;
}

const char *tm_tracer_layout_source(void)
{
    return "table";
}

struct tm_totals tm_tracer_totals(void)
{
    tm_stub_fence();
    struct tm_totals result = tm_stub.totals;
    tm_stub_fence();
    return result;
}

void tm_tracer_set_window(int eventfd, uint64_t low_bytes, uint64_t high_bytes)
{
    tm_stub_fence();
    tm_stub.window_low_bytes = low_bytes;
    tm_stub.window_high_bytes = high_bytes;
    tm_stub.window_fd = eventfd;
    tm_stub_fence();
}

void tm_stub_move_memory(uint64_t traced_bytes)
{
    uint64_t one = 1;

    tm_stub_fence();
    tm_stub.totals.traced_bytes = traced_bytes;
    if (traced_bytes > tm_stub.totals.peak_bytes)
        tm_stub.totals.peak_bytes = traced_bytes;
    int fd = tm_stub.window_fd;
    bool outside = fd >= 0 && (traced_bytes <= tm_stub.window_low_bytes ||
                               traced_bytes >= tm_stub.window_high_bytes);
    tm_stub_fence();
    if (outside && write(fd, &one, sizeof(one)) < 0)
        perror("eventfd");
}

int tm_snapshot_write(int fd, const struct tm_snapshot_options *options,
                      struct tm_snapshot_result *ret)
{
    tm_stub_fence();
    char text[128];

    if (tm_stub.snapshot_status) {
        snprintf(ret->message, sizeof(ret->message), "the disk is full");
        return tm_stub.snapshot_status;
    }
    int n = snprintf(text, sizeof(text), "stub %u %s\n", options->counter, options->reason);
    if (write(fd, text, (size_t)n) != n)
        return -errno;
    ret->traces = tm_stub.totals.traced_blocks;
    ret->traced_bytes = tm_stub.totals.traced_bytes;
    ret->file_bytes = (uint64_t)n;
    return 0;
}

bool tm_tracer_hold(void)
{
    return false;
}

void tm_tracer_unhold(void)
{
}
