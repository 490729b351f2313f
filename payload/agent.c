// SPDX-License-Identifier: MIT
#include "payload/agent.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "format/state.h"
#include "payload/clock.h"
#include "payload/follow.h"
#include "payload/errtext.h"
#include "payload/gil.h"
#include "payload/tracer.h"

/* Nobody said START: the tm-attach that brought us here is gone. */
#define ORPHAN_MS 10000
/* How often the agent looks whether its descriptors are still its own. */
#define CHECK_MS 5000
#define QUIESCE_MS 5000
#define RETRY_MS 1000
/* How often it looks whether the program has loaded or unloaded modules, with native frames on. */
#define MODULES_MS 200

extern struct tm_state tm_state_export;

void tm_agent_publish_channel(struct tm_agent *agent)
{
    __atomic_store_n(&tm_state_export.control_fd, agent->channel.client_end.fd, __ATOMIC_RELEASE);
    /* The inode last: who waits for it to change finds the number that goes with it. */
    __atomic_store_n(&tm_state_export.control_inode, agent->channel.client_end.inode,
                     __ATOMIC_RELEASE);
}

static int open_window(struct tm_agent *agent)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return -errno;
    agent->window = tm_ownfd_adopt(fd);
    return 0;
}

int tm_agent_init(struct tm_agent *agent, char *message, size_t message_bytes)
{
    memset(agent, 0, sizeof(*agent));
    agent->window = TM_OWNFD_NONE;
    tm_output_init(&agent->output);
    tm_options_init(&agent->options);
    tm_task_cancel(&agent->task);
    agent->may_unload = true;
    int status = tm_channel_open(&agent->channel);
    if (status == 0)
        status = open_window(agent);
    if (status < 0) {
        snprintf(message, message_bytes, "cannot make the control channel: %s",
                 tm_errtext(-status));
        tm_agent_done(agent);
    }
    return status;
}

void tm_agent_done(struct tm_agent *agent)
{
    tm_channel_close(&agent->channel);
    tm_output_done(&agent->output);
    tm_ownfd_close(&agent->window);
}

static void arm_window(struct tm_agent *agent)
{
    const struct tm_task *task = &agent->task;

    if (task->scheduled && task->threshold_bytes)
        tm_tracer_set_window(agent->window.fd, task->low_bytes, task->high_bytes);
    else
        tm_tracer_set_window(-1, 0, UINT64_MAX);
}

void tm_agent_schedule(struct tm_agent *agent)
{
    tm_task_centre(&agent->task, tm_clock_monotonic_ns(), tm_tracer_totals().traced_bytes);
    arm_window(agent);
}

static void record_failure(struct tm_agent *agent, const char *message)
{
    agent->record.failed_count++;
    agent->record.last_error_ns = tm_clock_real_ns();
    snprintf(agent->record.last_error, sizeof(agent->record.last_error), "%s", message);
}

static void tell_event(struct tm_agent *agent, int status)
{
    tm_msg_init(&agent->out, TM_MSG_EVENT, 0);
    tm_msg_put(&agent->out, "event", status < 0 ? "snapshot-failed" : "snapshot");
    tm_msg_put(&agent->out, "file", agent->result.file);
    if (status < 0)
        tm_msg_put(&agent->out, "message", agent->result.message);
    tm_channel_broadcast(&agent->channel, &agent->out);
}

int tm_agent_snapshot(struct tm_agent *agent, struct tm_output *output, const char *reason)
{
    struct tm_snapshot_options options = {
        .with_traces = agent->options.with_traces,
        .reason = reason,
    };
    int status = tm_output_write(output, &options, &agent->result);

    if (status < 0) {
        record_failure(agent, agent->result.message);
    } else {
        agent->record.written_count++;
        strcpy(agent->record.last_file, agent->result.file); /* the same size */
    }
    tell_event(agent, status);
    tm_tracer_trim();
    return status;
}

int tm_agent_take_gil_to_change(int *ret_gil)
{
    for (unsigned attempt = 0;; attempt++) {
        int status = tm_gil_take(ret_gil);
        unsigned pause_ms = status < 0 ? 0 : tm_tracer_change_begin(attempt);
        if (pause_ms == 0)
            return status;
        tm_gil_drop(*ret_gil);
        usleep(pause_ms * 1000);
    }
}

void tm_agent_drop_gil_changed(int gil)
{
    tm_tracer_change_end();
    tm_gil_drop(gil);
}

int tm_agent_detach(struct tm_agent *agent)
{
    int gil;

    tm_tracer_set_window(-1, 0, UINT64_MAX);
    bool session_died = tm_gil_has_ended();
    int status = tm_agent_take_gil_to_change(&gil);
    if (status < 0)
        return status;
    tm_follow_forget();
    bool unreachable = !session_died && (tm_session_end == NULL || tm_session_end());
    /* The store is unmapped once the program goes on: that takes long where much was traced. */
    bool held = tm_tracer_hold();
    agent->unhook = tm_tracer_disable();
    tm_agent_drop_gil_changed(gil);
    if (held)
        tm_tracer_unhold();
    agent->may_unload = !agent->stays_mapped && unreachable &&
                        agent->unhook == TM_UNHOOK_RESTORED && tm_tracer_quiesce(QUIESCE_MS);
    agent->detached = true;
    return 0;
}

static void detach_by_itself(struct tm_agent *agent, const char *why)
{
    if (tm_agent_detach(agent) < 0) {
        /* The interpreter goes down. If it is an embedded one the process may live on. */
        agent->end_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), RETRY_MS);
        return;
    }
    tm_msg_init(&agent->out, TM_MSG_EVENT, 0);
    tm_msg_put(&agent->out, "event", "detached");
    tm_msg_put(&agent->out, "message", why);
    tm_channel_broadcast(&agent->channel, &agent->out);
}

/* A snapshot that the task asks for. A failed one counts as a firing: the task goes on, and tries
 * again when it is due next. */
static void serve_task(struct tm_agent *agent, const char *reason)
{
    tm_task_fire(&agent->task);
    arm_window(agent);
    tm_agent_snapshot(agent, &agent->output, reason);
    tm_agent_schedule(agent);
}

static void serve_window(struct tm_agent *agent)
{
    uint64_t count;

    if (!tm_ownfd_is_ours(&agent->window) ||
        read(agent->window.fd, &count, sizeof(count)) != sizeof(count))
        return;
    struct tm_totals totals = tm_tracer_totals();
    if (tm_task_window_fired(&agent->task, totals.traced_bytes, totals.peak_bytes))
        serve_task(agent, "memory");
    else
        arm_window(agent);
}

static void serve_clock(struct tm_agent *agent)
{
    uint64_t now_ns = tm_clock_monotonic_ns();

    if (tm_task_is_due(&agent->task, now_ns))
        serve_task(agent, "delay");
    if (now_ns >= agent->end_ns)
        detach_by_itself(agent, agent->started ? "the lifetime is over" : "nobody said START");
    else if (agent->options.max_snapshots &&
             agent->record.written_count >= agent->options.max_snapshots)
        detach_by_itself(agent, "the last snapshot was written");
}

/* What the program closed behind our back is made anew. */
static void check_descriptors(struct tm_agent *agent)
{
    if (!tm_ownfd_is_ours(&agent->channel.agent_end) ||
        !tm_ownfd_is_ours(&agent->channel.client_end)) {
        tm_channel_close(&agent->channel);
        tm_channel_open(&agent->channel);
        tm_agent_publish_channel(agent);
    }
    if (!tm_ownfd_is_ours(&agent->window)) {
        agent->window = TM_OWNFD_NONE;
        tm_tracer_set_window(-1, 0, UINT64_MAX);
        if (open_window(agent) == 0)
            arm_window(agent);
    }
}

static int poll_timeout_ms(const struct tm_agent *agent)
{
    uint64_t now_ns = tm_clock_monotonic_ns(), next_ns = agent->end_ns;

    if (agent->task.scheduled && agent->task.due_ns < next_ns)
        next_ns = agent->task.due_ns;
    if (next_ns <= now_ns)
        return 0;
    uint64_t left_ms = (next_ns - now_ns + TM_NS_PER_MS - 1) / TM_NS_PER_MS;
    uint64_t check_ms = agent->options.native_depth ? MODULES_MS : CHECK_MS;
    return left_ms < check_ms ? (int)left_ms : (int)check_ms;
}

static void serve_client(struct tm_agent *agent, struct tm_client_slot *client)
{
    int fd = -1;

    if (tm_channel_receive(&agent->channel, client, &agent->in, &fd))
        tm_agent_answer(agent, client, fd);
}

void tm_agent_run(struct tm_agent *agent)
{
    if (!agent->started)
        agent->end_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), ORPHAN_MS);
    while (!agent->detached) {
        struct pollfd pfds[2 + TM_CLIENTS_MAX];
        check_descriptors(agent);
        pfds[0] = (struct pollfd){.fd = agent->channel.agent_end.fd, .events = POLLIN};
        pfds[1] = (struct pollfd){.fd = agent->window.fd, .events = POLLIN};
        for (int i = 0; i < TM_CLIENTS_MAX; i++)
            pfds[2 + i] =
                (struct pollfd){.fd = agent->channel.clients[i].sock.fd, .events = POLLIN};
        /* EINTR cannot be: all signals are blocked. ENOMEM can: then only the clock is served. */
        int ready = poll(pfds, 2 + TM_CLIENTS_MAX, poll_timeout_ms(agent));
        for (int i = 0; ready > 0 && i < TM_CLIENTS_MAX && !agent->detached; i++) {
            if (pfds[2 + i].revents)
                serve_client(agent, &agent->channel.clients[i]);
        }
        if (ready > 0 && pfds[1].revents && !agent->detached)
            serve_window(agent);
        if (ready > 0 && pfds[0].revents && !agent->detached)
            tm_channel_accept(&agent->channel, &agent->in);
        if (!agent->detached && agent->options.native_depth)
            tm_tracer_refresh_native();
        if (!agent->detached)
            serve_clock(agent);
    }
}
