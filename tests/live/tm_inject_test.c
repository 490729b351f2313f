// SPDX-License-Identifier: MIT
/*
 * tm-inject-test PID [--any] [--payload FILE] [--stay] [--step-out] [--search-ms N] [--boot-ms N]
 *                [--gil-ms N]
 *
 * Injects the toy payload, looks whether its heartbeat goes on, tells it to leave and waits until
 * it is gone. Prints "key=value" words on one line; exits with the status of the error.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/boot.h"
#include "format/state.h"
#include "injector/inject.h"
#include "inspect/memory.h"
#include "inspect/payload.h"
#include "inspect/process.h"

#ifndef TM_TOY_PAYLOAD
#define TM_TOY_PAYLOAD "libtm-toy-payload.so"
#endif

static char *payload_path;
static gboolean any, stay, check_only, step_out;
static int search_ms, boot_ms, gil_ms;

static const GOptionEntry entries[] = {
    {"any", 0, 0, G_OPTION_ARG_NONE, &any, "Take any program, not only Python", NULL},
    {"check", 0, 0, G_OPTION_ARG_NONE, &check_only, "Only look", NULL},
    {"stay", 0, 0, G_OPTION_ARG_NONE, &stay, "Leave the payload in", NULL},
    {"step-out", 0, 0, G_OPTION_ARG_NONE, &step_out, "Out of an allocator only", NULL},
    {"payload", 0, 0, G_OPTION_ARG_FILENAME, &payload_path, "Another payload", "FILE"},
    {"search-ms", 0, 0, G_OPTION_ARG_INT, &search_ms, "Bound of the search", "N"},
    {"boot-ms", 0, 0, G_OPTION_ARG_INT, &boot_ms, "Bound of the start", "N"},
    {"gil-ms", 0, 0, G_OPTION_ARG_INT, &gil_ms, "Bound of the wait for the GIL", "N"},
    {NULL, 0, 0, 0, NULL, NULL, NULL},
};

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static bool heart_beats(pid_t pid, uint64_t state_addr)
{
    struct tm_state before, after;
    for (int i = 0; i < 500; i++) {
        if (!tm_memory_read(pid, state_addr, i == 0 ? &before : &after, sizeof(before), NULL))
            return false;
        if (i > 0 && after.own_bytes > before.own_bytes)
            return true;
        sleep_ms(2);
    }
    return false;
}

/* The block is unmapped by the last instruction of the new thread. */
static bool leave(pid_t pid, const struct tm_inject_result *result)
{
    uint32_t on = TM_TRACING_ON;
    struct tm_boot boot;
    tm_memory_write(pid, result->state_addr + offsetof(struct tm_state, tracing), &on, sizeof(on),
                    NULL);
    for (int i = 0; i < 5000; i++) {
        if (!tm_memory_read(pid, result->boot_addr, &boot, sizeof(boot), NULL))
            return true;
        sleep_ms(1);
    }
    return false;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new("PID");
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc != 2)
        return 2;
    struct tm_inject_request request = {.pid = atoi(argv[1]),
                                        .search_ms = (uint32_t)search_ms,
                                        .boot_ms = (uint32_t)boot_ms,
                                        .gil_ms = (uint32_t)gil_ms,
                                        .search = step_out ? TM_INJECT_SEARCH_STEP_OUT
                                                           : TM_INJECT_SEARCH_AUTO,
                                        .want = any ? TM_INJECT_WANT_ANY : TM_INJECT_WANT_PYTHON};
    struct tm_inject_result result;
    g_autoptr(GBytes) payload =
        tm_inject_read_payload(payload_path != NULL ? payload_path : TM_TOY_PAYLOAD, &error);
    request.payload = payload;
    bool done = payload != NULL && (check_only ? tm_inject_check(&request, &result, &error)
                                               : tm_inject(&request, &result, &error));
    if (!done) {
        printf("error=%s message=%s\n", tm_attach_error_name(error->code), error->message);
        return tm_attach_error_exit_status(error->code);
    }
    if (check_only) {
        printf("python=%s\n", result.python_version);
        return 0;
    }
    pid_t living = tm_process_living(request.pid);
    bool beats = heart_beats(living, result.state_addr);
    struct tm_payload found = {0};
    tm_inspect_find_payload(request.pid, NULL, &found, NULL);
    bool gone = stay || leave(living, &result);
    printf("python=%s worst_us=%lu wait_us=%lu total_us=%lu stops=%u tid=%d beats=%d found=%d "
           "gone=%d\n",
           result.python_version, result.worst_stop_ns / 1000, result.worst_wait_ns / 1000,
           result.total_stop_ns / 1000, result.stops, (int)result.tid, beats,
           found.state_valid && found.state.agent_alive, gone);
    return beats && gone && found.state_valid ? 0 : 1;
}
