// SPDX-License-Identifier: MIT
#include "injector/verbs.h"

#include <signal.h>
#include <string.h>
#include <time.h>

#include "injector/client.h"
#include "injector/directory.h"
#include "injector/hold.h"
#include "injector/inject.h"
#include "injector/leaving.h"
#include "injector/payload_file.h"
#include "inspect/memory.h"
#include "inspect/payload.h"
#include "inspect/process.h"

#define DEFAULT_TEMPLATE "tracemalloc-$pid-$counter.tms"
/* Enabling takes the GIL, which an extension may hold for long. */
#define START_TIMEOUT_MS 60000

static void put_given(struct tm_msg_buf *msg, const char *key, const struct tm_given *given)
{
    if (given->given)
        tm_msg_put_u64(msg, key, given->value);
}

static long utc_offset_s(void)
{
    time_t now = time(NULL);
    struct tm local;

    return localtime_r(&now, &local) ? local.tm_gmtoff : 0;
}

static void put_options(struct tm_msg_buf *msg, pid_t pid, const struct tm_attach_options *options,
                        const char *template)
{
    put_given(msg, "traces", &options->traces);
    put_given(msg, "traceback_limit", &options->traceback_limit);
    put_given(msg, "sample_bytes", &options->sample_bytes);
    put_given(msg, "native", &options->native_depth);
    put_given(msg, "delay_ms", &options->delay_ms);
    put_given(msg, "threshold_bytes", &options->threshold_bytes);
    put_given(msg, "repeat", &options->repeat);
    put_given(msg, "lifetime_ms", &options->lifetime_ms);
    put_given(msg, "max_snapshots", &options->max_snapshots);
    if (options->follow_fork)
        tm_msg_put_u64(msg, "follow_fork", 1);
    tm_msg_put_u64(msg, "in_target", options->in_target);
    tm_msg_put_u64(msg, "pid", (uint64_t)pid);
    tm_msg_put_i64(msg, "utc_offset_s", utc_offset_s());
    if (template)
        tm_msg_put(msg, "output", template);
}

/* START or SET, with the directory where one is meant. */
static bool send_options(tm_client *client, enum tm_msg_type type, pid_t pid,
                         const struct tm_attach_options *options, const char *template,
                         struct tm_directory *directory, GError **error)
{
    if (template && !options->in_target && !tm_directory_open(directory, template, pid, error)) {
        g_prefix_error(error, "%d: ", (int)pid);
        return false;
    }
    struct tm_msg_buf *msg = tm_client_request(client, type);
    put_options(msg, pid, options, directory->name ? directory->name : template);
    return tm_client_call(client, directory->fd, START_TIMEOUT_MS, error);
}

/* Where the next snapshot goes, in the user's words. */
static char *next_path(const tm_client *client, const struct tm_directory *directory)
{
    const char *file = tm_client_get(client, "next_file");

    if (!file || !directory->path || g_path_is_absolute(file))
        return tm_client_dup_path(client, "next_file");
    return g_build_filename(directory->path, file, NULL);
}

/* Takes the payload out again after a START that failed; its own error is the one to tell. */
static void undo(tm_client *client, pid_t pid, uint64_t state_addr)
{
    tm_client_request(client, TM_MSG_DETACH);
    if (tm_client_call(client, -1, START_TIMEOUT_MS, NULL))
        tm_leaving_wait(pid, state_addr, tm_client_get_u64(client, "unloads") != 0);
}

static tm_client *inject(pid_t pid, const struct tm_attach_options *options,
                         struct tm_inject_result *ret, GError **error)
{
    struct tm_state state;
    g_autoptr(GBytes) payload = tm_payload_file_read(error);
    struct tm_inject_request request = {
        .pid = pid,
        .payload = payload,
        .held = tm_hold_get_tracee(options->hold),
        .looked = tm_hold_release,
        .booting = options->hold ? tm_hold_step : NULL,
        .hook_arg = options->hold,
    };

    if (!payload || !tm_inject(&request, ret, error))
        return NULL;
    if (!tm_memory_read(tm_process_living(pid), ret->state_addr, &state, sizeof(state), error)) {
        g_prefix_error(error, "%d: ", (int)pid);
        return NULL;
    }
    return tm_client_connect(pid, &state, error);
}

static bool attach_new(pid_t pid, const struct tm_attach_options *options, FILE *out,
                       GError **error)
{
    struct tm_inject_result result = {0};
    struct tm_directory directory = {.fd = -1};
    const char *template = options->output ? options->output : DEFAULT_TEMPLATE;
    g_autoptr(tm_client) client = inject(pid, options, &result, error);

    if (!client)
        return false;
    if (options->hold)
        tm_client_set_waiting(client, tm_hold_rest, options->hold);
    if (!send_options(client, TM_MSG_START, pid, options, template, &directory, error)) {
        undo(client, pid, result.state_addr);
        tm_directory_done(&directory);
        return false;
    }
    g_autofree char *path = next_path(client, &directory);
    fprintf(out, "%d: tracing Python %s, stopped for %.1f ms, %s %s%s\n", (int)pid,
            tm_client_get(client, "python"), (double)result.worst_stop_ns / 1e6,
            tm_client_get_u64(client, "scheduled") ? "snapshots go to"
                                                   : "snapshots on request go to",
            path, directory.made ? " (its user cannot write here)" : "");
    if (options->follow_fork && !tm_client_get_u64(client, "follow_fork"))
        fprintf(stderr,
                "tm-attach: %d: --follow-fork: its agent cannot do that, children start "
                "untraced\n",
                (int)pid);
    tm_directory_done(&directory);
    return true;
}

static bool change(pid_t pid, const struct tm_state *state, const struct tm_attach_options *options,
                   FILE *out, GError **error)
{
    struct tm_directory directory = {.fd = -1};

    if (!tm_attach_options_change_anything(options)) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_ATTACHED,
                    "%d: traced already, see --status; give options to change them", (int)pid);
        return false;
    }
    g_autoptr(tm_client) client = tm_client_connect(pid, state, error);
    if (!client)
        return false;
    bool ok = send_options(client, TM_MSG_SET, pid, options, options->output, &directory, error);
    if (ok) {
        g_autofree char *path = next_path(client, &directory);
        fprintf(out, "%d: traced already, the new options are set, snapshots go to %s\n", (int)pid,
                path);
    }
    tm_directory_done(&directory);
    return ok;
}

bool tm_verb_attach(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error)
{
    gint64 deadline_us = g_get_monotonic_time() + TM_LEAVING_PATIENCE_US;
    struct tm_payload payload;

    /* Where looking fails, the way in tells why. An agent may be met that is just leaving, at the
     * end of its lifetime for instance: then the process is attached to anew. */
    while (tm_inspect_find_payload(pid, NULL, &payload, NULL) && tm_payload_is_served(&payload)) {
        g_autoptr(GError) failure = NULL;
        if (change(pid, &payload.state, options, out, &failure))
            return true;
        if (!g_error_matches(failure, TM_CONTROL_ERROR, TM_CONTROL_ERROR_GONE) ||
            g_get_monotonic_time() >= deadline_us) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return false;
        }
        g_usleep(TM_LEAVING_LOOK_US);
    }
    return attach_new(pid, options, out, error);
}
