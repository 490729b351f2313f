// SPDX-License-Identifier: MIT
#include "payload/follow.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "payload/clock.h"
#include "payload/gil.h"
#include "payload/hooks.h"
#include "payload/state.h"

static struct {
    struct tm_agent *agent; /* of the process that made the plan */
    struct tm_options options;
    struct tm_output output;
} plan; /* GIL */

static struct tm_agent child_agent;

/* The copies of the parent's descriptors: its clients must see its end when it ends, and only its
 * directory is needed here. */
static void close_inherited(struct tm_agent *parent)
{
    parent->output.directory = TM_OWNFD_NONE;
    tm_agent_done(parent);
    tm_state_export.agent_alive = 0;
    tm_state_export.control_fd = -1;
}

static void take_over(struct tm_agent *agent)
{
    agent->options = plan.options;
    agent->options.shown_pid = 0;
    agent->output = plan.output;
    agent->output.shown_pid = (uint64_t)getpid();
    agent->output.counter = 0;
    agent->output.has_last = false;
    agent->started = true;
    agent->started_ns = tm_clock_real_ns();
    agent->end_ns = agent->options.lifetime_ms
                        ? tm_clock_after_ms(tm_clock_monotonic_ns(), agent->options.lifetime_ms)
                        : TM_NEVER;
}

static bool enable(struct tm_agent *agent)
{
    char message[320];
    struct tm_tracer_options tracer = {
        .traceback_limit = agent->options.traceback_limit,
        .sample_bytes = agent->options.sample_bytes,
        .native_depth = (uint32_t)agent->options.native_depth,
    };
    int gil;
    if (tracer.native_depth != 0 && tm_tracer_prepare_native(message, sizeof(message)) < 0)
        tracer.native_depth = 0; /* the Python frames are true without */
    if (tm_gil_take(&gil) < 0)
        return false;
    bool enabled = tm_tracer_enable(&tracer, message, sizeof(message)) == 0;
    if (enabled)
        tm_follow_plan(agent);
    tm_gil_drop(gil);
    return enabled;
}

/* Nobody joins this thread and nobody unmaps the payload: the child's tm-attach, if ever there is
 * one, detaches and leaves it mapped. */
static void *child_main(void *unused)
{
    struct tm_agent *agent = &child_agent;
    char message[320];
    (void)unused;
    prctl(PR_SET_NAME, "tm-agent");
    close_inherited(plan.agent);
    if (tm_agent_init(agent, message, sizeof(message)) < 0)
        return NULL;
    take_over(agent);
    agent->stays_mapped = true;
    if (tm_gil_make_state() == 0 && enable(agent)) {
        agent->task.delay_ms = agent->options.delay_ms;
        agent->task.threshold_bytes = agent->options.threshold_bytes;
        agent->task.repeat_left = agent->options.repeat ? agent->options.repeat : UINT64_MAX;
        tm_agent_schedule(agent);
        tm_state_export.pid = getpid();
        tm_agent_publish_channel(agent);
        tm_state_export.agent_alive = 1;
        tm_agent_run(agent);
    }
    tm_gil_drop_state();
    tm_state_export.agent_alive = 0;
    tm_state_export.control_fd = -1;
    tm_agent_done(agent);
    return NULL;
}

/* Runs inside a hook of the child, under its GIL. */
static void begin_in_child(void)
{
    pthread_t thread;
    sigset_t all, before;
    /* The agent's thread must not take the program's signals. */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    if (pthread_create(&thread, NULL, child_main, NULL) == 0)
        pthread_detach(thread);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

void tm_follow_plan(struct tm_agent *agent)
{
    plan.agent = agent;
    plan.options = agent->options;
    plan.output = agent->output;
    tm_hooks_on_fork = agent->options.follow_fork ? begin_in_child : NULL;
}

void tm_follow_forget(void)
{
    tm_hooks_on_fork = NULL;
}
