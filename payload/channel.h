// SPDX-License-Identifier: MIT
/*
 * The agent's side of the control channel: the shared socket on which clients
 * say HELLO, and a handful of private ones. Whatever arrives is read by one
 * bounded call, checked, and dropped if it is not understood; a client that
 * does not read its answers is let go.
 *
 * Agent thread only. Allocates nothing, never blocks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "format/control.h"
#include "payload/ownfd.h"

#define TM_CLIENTS_MAX 8

struct tm_client_slot {
    struct tm_ownfd sock; /* none: free */
    bool wants_events;
    uint64_t used_ns; /* last talk: the longest silent one gives way to a new one */
};

struct tm_channel {
    struct tm_ownfd agent_end;  /* HELLOs arrive here */
    struct tm_ownfd client_end; /* clients copy this one */
    struct tm_client_slot clients[TM_CLIENTS_MAX];
};

/* 0 or -errno; the channel can be closed in either case. */
int tm_channel_open(struct tm_channel *channel);
void tm_channel_close(struct tm_channel *channel);
/* Reads one packet of the shared end, with `scratch` for it. */
void tm_channel_accept(struct tm_channel *channel, struct tm_msg_buf *scratch);
/* Reads one packet of a client: true with a message to answer and perhaps a descriptor to close. A
 * client that is gone or does not speak the protocol is let go. */
bool tm_channel_receive(struct tm_channel *channel, struct tm_client_slot *client,
                        struct tm_msg_buf *ret, int *ret_fd);
void tm_channel_send(struct tm_client_slot *client, const struct tm_msg_buf *msg);
/* To all who asked for events. */
void tm_channel_broadcast(struct tm_channel *channel, const struct tm_msg_buf *msg);
