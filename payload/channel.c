// SPDX-License-Identifier: MIT
#include "payload/channel.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "payload/clock.h"

int tm_channel_open(struct tm_channel *channel)
{
    int ends[2];

    channel->agent_end = channel->client_end = TM_OWNFD_NONE;
    for (int i = 0; i < TM_CLIENTS_MAX; i++)
        channel->clients[i] = (struct tm_client_slot){.sock = TM_OWNFD_NONE};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return -errno;
    channel->agent_end = tm_ownfd_adopt(ends[0]);
    channel->client_end = tm_ownfd_adopt(ends[1]);
    return 0;
}

void tm_channel_close(struct tm_channel *channel)
{
    tm_ownfd_close(&channel->agent_end);
    tm_ownfd_close(&channel->client_end);
    for (int i = 0; i < TM_CLIENTS_MAX; i++)
        tm_ownfd_close(&channel->clients[i].sock);
}

/* Only a socket of the kind that the protocol uses is taken from a HELLO. */
static bool is_private_socket(int fd)
{
    int domain = 0, type = 0;
    socklen_t domain_bytes = sizeof(domain), type_bytes = sizeof(type);

    return fd >= 0 && !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_bytes) &&
           !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_bytes) && domain == AF_UNIX &&
           type == SOCK_SEQPACKET;
}

/* A free place, or that of the client that has been silent longest. */
static struct tm_client_slot *find_slot(struct tm_channel *channel)
{
    struct tm_client_slot *oldest = &channel->clients[0];

    for (int i = 0; i < TM_CLIENTS_MAX; i++) {
        struct tm_client_slot *slot = &channel->clients[i];
        if (slot->sock.fd < 0)
            return slot;
        if (slot->used_ns < oldest->used_ns)
            oldest = slot;
    }
    tm_ownfd_close(&oldest->sock);
    return oldest;
}

void tm_channel_accept(struct tm_channel *channel, struct tm_msg_buf *scratch)
{
    int fd;

    if (!tm_ownfd_is_ours(&channel->agent_end) ||
        tm_msg_recv(channel->agent_end.fd, scratch, &fd, 0) < 0)
        return;
    if (scratch->head.type != TM_MSG_HELLO || !is_private_socket(fd)) {
        if (fd >= 0)
            close(fd);
        return;
    }
    struct tm_client_slot *slot = find_slot(channel);
    slot->sock = tm_ownfd_adopt(fd);
    slot->wants_events = false;
    slot->used_ns = tm_clock_monotonic_ns();
    tm_msg_init(scratch, TM_MSG_OK, scratch->head.seq);
    tm_msg_put(scratch, "version", TM_VERSION);
    tm_channel_send(slot, scratch);
}

bool tm_channel_receive(struct tm_channel *channel, struct tm_client_slot *client,
                        struct tm_msg_buf *ret, int *ret_fd)
{
    (void)channel;
    if (!tm_ownfd_is_ours(&client->sock)) {
        client->sock.fd = -1;
        return false;
    }
    int status = tm_msg_recv(client->sock.fd, ret, ret_fd, 0);
    if (status == 0) {
        client->used_ns = tm_clock_monotonic_ns();
        return true;
    }
    if (status == -EBADMSG) {
        tm_msg_init(ret, TM_MSG_ERROR, 0);
        tm_msg_put_u64(ret, "error", TM_CTL_E_PROTOCOL);
        tm_msg_put(ret, "message", "the packet is not of this protocol");
        tm_channel_send(client, ret);
    }
    if (status != -ETIMEDOUT)
        tm_ownfd_close(&client->sock);
    return false;
}

void tm_channel_send(struct tm_client_slot *client, const struct tm_msg_buf *msg)
{
    if (client->sock.fd < 0)
        return;
    if (!tm_ownfd_is_ours(&client->sock))
        client->sock.fd = -1;
    else if (tm_msg_send(client->sock.fd, msg, -1) < 0)
        tm_ownfd_close(&client->sock);
}

void tm_channel_broadcast(struct tm_channel *channel, const struct tm_msg_buf *msg)
{
    for (int i = 0; i < TM_CLIENTS_MAX; i++) {
        if (channel->clients[i].wants_events)
            tm_channel_send(&channel->clients[i], msg);
    }
}
