// SPDX-License-Identifier: MIT
/*
 * The agent: one thread of the target that serves the control channel, runs the
 * snapshot task and writes the files, from the attach to the detach.
 *
 * Everything here runs on that thread. It takes the GIL for moments only and
 * never holds it while it waits or writes. Allocates nothing.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "payload/channel.h"
#include "payload/options.h"
#include "payload/output.h"
#include "payload/task.h"
#include "payload/tracer.h"

struct tm_agent_record {
    uint64_t written_count;
    uint64_t failed_count;
    uint64_t last_error_ns; /* CLOCK_REALTIME; 0: none */
    char last_error[320];
    char last_file[TM_OUTPUT_PATH_BYTES];
};

struct tm_agent {
    struct tm_channel channel;
    struct tm_options options;
    struct tm_output output;
    struct tm_task task;
    struct tm_ownfd window; /* eventfd that the hooks write to */
    bool started;           /* a client said START */
    bool detached;          /* the engine is out: leave */
    enum tm_unhook unhook;  /* valid with detached */
    bool may_unload;        /* no thread can be in our code */
    bool stays_mapped;      /* nobody would unmap it: a forked child's */
    uint64_t started_ns;    /* CLOCK_REALTIME */
    uint64_t end_ns;        /* detach by itself: nobody said START, or --lifetime */
    struct tm_agent_record record;
    struct tm_output_result result; /* of the snapshot under way */
    struct tm_msg_buf in, out;
};

/* Makes the channel. 0 or -errno with a message. */
int tm_agent_init(struct tm_agent *agent, char *message, size_t message_bytes);
/* Serves until the engine has been detached. */
void tm_agent_run(struct tm_agent *agent);
/* Closes what is open; half-made ones too. */
void tm_agent_done(struct tm_agent *agent);

/* The Python module (payload/pymodule/session.h); not there where the agent is tested alone. GIL.
 * The second: true where nothing in the program can call our code any more. */
__attribute__((weak)) bool tm_session_begin(void);
__attribute__((weak)) bool tm_session_end(void);
/* Tells the module which filters are in force now. */
__attribute__((weak)) void tm_session_set_filters(const struct tm_filter_spec *specs,
                                                  size_t n_specs);

/* What commands.c and agent.c share. */

/* Takes a snapshot now; `reason` as in TMS_FACTS. `output`: where to. 0 or -errno, recorded. */
int tm_agent_snapshot(struct tm_agent *agent, struct tm_output *output, const char *reason);
/* Sets the task (and its window in the engine) around the present. */
void tm_agent_schedule(struct tm_agent *agent);
/* tm_gil_take and tm_gil_drop for who puts hooks in or takes them out: between
 * tm_tracer_change_begin and _end. */
int tm_agent_take_gil_to_change(int *ret_gil);
void tm_agent_drop_gil_changed(int gil);
/* Takes the engine out. 0, or -ENODEV where Python goes down. */
int tm_agent_detach(struct tm_agent *agent);
/* Publishes the number that clients copy the channel from. */
void tm_agent_publish_channel(struct tm_agent *agent);

/* Answers agent->in, which came from `client` with descriptor fd (-1: none; taken over). */
void tm_agent_answer(struct tm_agent *agent, struct tm_client_slot *client, int fd);
