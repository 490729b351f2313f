// SPDX-License-Identifier: MIT
/*
 * The verbs of the control protocol (docs/PROTOCOL.md), one function each.
 *
 * Agent thread, in the target.
 */
#include "payload/agent.h"

#include <errno.h>
#include <string.h>
#include <stdio.h>
#include <unistd.h>

#include "format/state.h"
#include "payload/clock.h"
#include "payload/follow.h"
#include "payload/gil.h"
#include "payload/pyapi.h"
#include "payload/redirect.h"
#include "payload/tracer.h"

extern struct tm_state tm_state_export;

static void answer_error(struct tm_agent *agent, enum tm_ctl_error error, const char *message)
{
    tm_msg_init(&agent->out, TM_MSG_ERROR, agent->in.head.seq);
    tm_msg_put_u64(&agent->out, "error", error);
    tm_msg_put(&agent->out, "message", message);
}

static uint64_t left_ms(uint64_t deadline_ns)
{
    uint64_t now_ns = tm_clock_monotonic_ns();

    return deadline_ns > now_ns ? (deadline_ns - now_ns) / TM_NS_PER_MS : 0;
}

static void put_task(struct tm_msg_buf *out, const struct tm_agent *agent)
{
    const struct tm_task *task = &agent->task;

    tm_msg_put_u64(out, "delay_ms", task->delay_ms);
    tm_msg_put_u64(out, "threshold_bytes", task->threshold_bytes);
    tm_msg_put_u64(out, "scheduled", task->scheduled);
    if (!task->scheduled)
        return;
    if (task->repeat_left != UINT64_MAX)
        tm_msg_put_u64(out, "repeat_left", task->repeat_left);
    if (task->due_ns != TM_NEVER)
        tm_msg_put_u64(out, "next_ms", left_ms(task->due_ns));
    if (task->threshold_bytes) {
        tm_msg_put_u64(out, "next_low_bytes", task->low_bytes);
        tm_msg_put_u64(out, "next_high_bytes", task->high_bytes);
    }
}

static void put_output(struct tm_msg_buf *out, const struct tm_agent *agent)
{
    char path[TM_OUTPUT_PATH_BYTES], link[40];

    tm_msg_put(out, "output", agent->output.template);
    if (tm_output_next_name(&agent->output, path, sizeof(path)))
        tm_msg_put(out, "next_file", path);
    if (agent->output.directory.fd < 0)
        snprintf(link, sizeof(link), "/proc/thread-self/cwd");
    else
        snprintf(link, sizeof(link), "/proc/thread-self/fd/%d", agent->output.directory.fd);
    if (agent->output.directory.fd >= 0)
        tm_msg_put_i64(out, "directory_fd", agent->output.directory.fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n > 0) {
        path[n] = '\0';
        tm_msg_put(out, "directory", path);
    }
}

static void put_record(struct tm_msg_buf *out, const struct tm_agent *agent)
{
    const struct tm_agent_record *record = &agent->record;

    tm_msg_put_u64(out, "written", record->written_count);
    tm_msg_put_u64(out, "failed", record->failed_count);
    if (record->last_file[0])
        tm_msg_put(out, "last_file", record->last_file);
    if (record->last_error_ns) {
        tm_msg_put(out, "last_error", record->last_error);
        tm_msg_put_u64(out, "last_error_ns", record->last_error_ns);
    }
}

static void put_totals(struct tm_msg_buf *out)
{
    struct tm_totals totals = tm_tracer_totals();

    tm_msg_put_u64(out, "traced_bytes", totals.traced_bytes);
    tm_msg_put_u64(out, "traced_blocks", totals.traced_blocks);
    tm_msg_put_u64(out, "peak_bytes", totals.peak_bytes);
    tm_msg_put_u64(out, "dropped", totals.dropped);
    tm_msg_put_u64(out, "own_bytes", totals.own_bytes);
    tm_msg_put_u64(out, "own_free_bytes", totals.own_free_bytes);
    struct tm_restarts restarts = tm_tracer_restarts();
    if (restarts.count != 0) {
        tm_msg_put_u64(out, "restarts", restarts.count);
        tm_msg_put_u64(out, "restart_lost_blocks", restarts.lost_blocks);
    }
}

/* The answer to STATUS, START and SET: one picture of everything. */
static void answer_status(struct tm_agent *agent)
{
    struct tm_msg_buf *out = &agent->out;

    tm_msg_init(out, TM_MSG_OK, agent->in.head.seq);
    tm_msg_put(out, "version", TM_VERSION);
    tm_msg_put(out, "state", tm_tracer_is_enabled() ? "tracing" : "idle");
    tm_msg_put(out, "python", tm_py.version);
    tm_msg_put_u64(out, "free_threaded", tm_py.free_threaded);
    tm_msg_put(out, "layout", tm_tracer_layout_source());
    if (tm_py.redirected)
        tm_msg_put(out, "unseen", TM_REDIRECT_UNSEEN);
    tm_msg_put_u64(out, "pid", (uint64_t)getpid());
    tm_msg_put_u64(out, "started_ns", agent->started_ns);
    tm_msg_put_u64(out, "now_ns", tm_clock_real_ns());
    tm_msg_put_u64(out, "traces", agent->options.with_traces);
    tm_msg_put_u64(out, "traceback_limit", tm_tracer_traceback_limit());
    tm_msg_put_u64(out, "sample_bytes", agent->options.sample_bytes);
    if (agent->options.follow_fork)
        tm_msg_put_u64(out, "follow_fork", 1);
    tm_msg_put_u64(out, "native", tm_tracer_native_depth());
    if (agent->options.max_snapshots)
        tm_msg_put_u64(out, "max_snapshots", agent->options.max_snapshots);
    if (agent->started && agent->end_ns != TM_NEVER)
        tm_msg_put_u64(out, "lifetime_left_ms", left_ms(agent->end_ns));
    put_totals(out);
    put_record(out, agent);
    put_task(out, agent);
    put_output(out, agent);
}

/* Switches the engine on, or changes its options. */
static int enable(const struct tm_options *options, const struct tm_option_filters *filters,
                  char *message, size_t message_bytes)
{
    struct tm_tracer_options tracer = {
        .traceback_limit = options->traceback_limit,
        .sample_bytes = options->sample_bytes,
        .native_depth = (uint32_t)options->native_depth,
    };
    int gil, status = 0;

    if (tracer.native_depth != tm_tracer_native_depth() && tracer.native_depth != 0)
        status = tm_tracer_prepare_native(message, message_bytes);
    if (status < 0)
        return status;
    status = tm_agent_take_gil_to_change(&gil);

    if (status < 0) {
        snprintf(message, message_bytes, "the Python interpreter is shutting down");
        return status;
    }
    if (filters->given) {
        status = tm_tracer_set_filters(filters->specs, filters->count);
        if (status < 0)
            snprintf(message, message_bytes, "the filters cannot be set: %s",
                     status == -EINVAL ? "too many joker characters in the filename pattern"
                                       : "memory is short");
        else if (tm_session_set_filters != NULL)
            tm_session_set_filters(filters->specs, filters->count);
    }
    /* Before tracing begins: what the module allocates is not the program's. */
    if (status == 0 && tm_session_begin != NULL)
        tm_session_begin();
    if (status == 0)
        status = tm_tracer_enable(&tracer, message, message_bytes);
    tm_agent_drop_gil_changed(gil);
    return status;
}

static bool changes_task(const struct tm_msg_buf *msg)
{
    return tm_msg_get(msg, "delay_ms") || tm_msg_get(msg, "threshold_bytes") ||
           tm_msg_get(msg, "repeat");
}

static void apply_options(struct tm_agent *agent, const struct tm_options *options, bool first)
{
    if (first || tm_msg_get(&agent->in, "lifetime_ms"))
        agent->end_ns = options->lifetime_ms
                            ? tm_clock_after_ms(tm_clock_monotonic_ns(), options->lifetime_ms)
                            : TM_NEVER;
    agent->options = *options;
    if (first || changes_task(&agent->in)) {
        agent->task.delay_ms = options->delay_ms;
        agent->task.threshold_bytes = options->threshold_bytes;
        agent->task.repeat_left = options->repeat ? options->repeat : UINT64_MAX;
        tm_agent_schedule(agent);
    }
}

static void plan_children(struct tm_agent *agent)
{
    int gil;

    if (tm_gil_take(&gil) < 0)
        return;
    tm_follow_plan(agent);
    tm_gil_drop(gil);
}

/* START and SET. Takes fd over. */
static void answer_options(struct tm_agent *agent, int fd, bool first)
{
    static struct tm_option_filters filters; /* large; one agent, one thread */
    struct tm_options options = agent->options;
    char message[320] = "";
    enum tm_ctl_error error = 0;

    if (first == agent->started) {
        error = TM_CTL_E_STATE;
        snprintf(message, sizeof(message), first ? "started already" : "not started");
    } else if (!tm_options_parse(&options, &agent->in, message, sizeof(message)) ||
               !tm_options_parse_filters(&filters, &agent->in, message, sizeof(message))) {
        error = TM_CTL_E_OPTION;
    }
    if (error) {
        if (fd >= 0)
            close(fd);
    } else if (tm_output_configure(&agent->output, &options, fd, message, sizeof(message)) < 0) {
        error = TM_CTL_E_IO;
    } else if (enable(&options, &filters, message, sizeof(message)) < 0) {
        error = TM_CTL_E_PYTHON;
    }
    if (error) {
        answer_error(agent, error, message);
        return;
    }
    if (first)
        agent->started_ns = tm_clock_real_ns();
    agent->started = true;
    apply_options(agent, &options, first);
    plan_children(agent);
    answer_status(agent);
}

/* Where a snapshot on request goes: the session's place, or the one that came with the request,
 * for this time only. Takes fd over. */
static int request_output(struct tm_agent *agent, int fd, struct tm_output *ret, char *message,
                          size_t message_bytes)
{
    struct tm_options options = agent->options;

    if (!tm_options_parse(&options, &agent->in, message, message_bytes)) {
        if (fd >= 0)
            close(fd);
        return -EINVAL;
    }
    *ret = agent->output;
    ret->directory = TM_OWNFD_NONE;
    return tm_output_configure(ret, &options, fd, message, message_bytes);
}

static int snapshot_elsewhere(struct tm_agent *agent, int fd)
{
    struct tm_output output;
    int status =
        request_output(agent, fd, &output, agent->result.message, sizeof(agent->result.message));

    if (status < 0)
        return status;
    status = tm_agent_snapshot(agent, &output, "request");
    agent->output.counter = output.counter;
    tm_output_done(&output);
    return status;
}

static void answer_snapshot(struct tm_agent *agent, int fd)
{
    int status;

    if (!agent->started || !tm_tracer_is_enabled()) {
        if (fd >= 0)
            close(fd);
        answer_error(agent, TM_CTL_E_STATE, "not tracing");
        return;
    }
    if (fd >= 0)
        status = snapshot_elsewhere(agent, fd);
    else
        status = tm_agent_snapshot(agent, &agent->output, "request");
    if (status < 0) {
        answer_error(agent, status == -EINVAL ? TM_CTL_E_OPTION : TM_CTL_E_IO,
                     agent->result.message);
        return;
    }
    tm_msg_init(&agent->out, TM_MSG_OK, agent->in.head.seq);
    tm_msg_put(&agent->out, "file", agent->result.file);
    if (fd < 0)
        put_output(&agent->out, agent);
    tm_msg_put_u64(&agent->out, "traces", agent->result.snapshot.traces);
    tm_msg_put_u64(&agent->out, "traced_bytes", agent->result.snapshot.traced_bytes);
    tm_msg_put_u64(&agent->out, "file_bytes", agent->result.snapshot.file_bytes);
    tm_msg_put_u64(&agent->out, "pause_ns", agent->result.snapshot.pause_ns);
}

static void answer_detach(struct tm_agent *agent)
{
    int status = tm_agent_detach(agent);

    if (status < 0) {
        answer_error(agent, TM_CTL_E_PYTHON, "the Python interpreter is shutting down");
        return;
    }
    tm_msg_init(&agent->out, TM_MSG_OK, agent->in.head.seq);
    tm_msg_put(&agent->out, "hooks", agent->unhook == TM_UNHOOK_RESTORED ? "restored" : "inert");
    tm_msg_put_u64(&agent->out, "unloads", agent->may_unload);
    tm_msg_put_u64(&agent->out, "written", agent->record.written_count);
    tm_msg_put_u64(&agent->out, "failed", agent->record.failed_count);
}

void tm_agent_answer(struct tm_agent *agent, struct tm_client_slot *client, int fd)
{
    uint64_t events;
    uint16_t type = agent->in.head.type;

    if (tm_msg_get_u64(&agent->in, "events", &events))
        client->wants_events = events != 0;
    if (type == TM_MSG_START || type == TM_MSG_SET) {
        answer_options(agent, fd, type == TM_MSG_START);
        fd = -1;
    } else if (type == TM_MSG_SNAPSHOT) {
        answer_snapshot(agent, fd);
        fd = -1;
    } else if (type == TM_MSG_STATUS) {
        /* The hooks count no page that they touch: what the tables hold is asked of the kernel. */
        tm_tracer_measure();
        answer_status(agent);
    } else if (type == TM_MSG_DETACH) {
        answer_detach(agent);
    } else {
        answer_error(agent, TM_CTL_E_PROTOCOL, "no such request");
    }
    if (fd >= 0)
        close(fd);
    tm_channel_send(client, &agent->out);
}
