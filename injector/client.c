// SPDX-License-Identifier: MIT
#include "injector/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "injector/errors.h"
#include "injector/leaving.h"
#include "inspect/payload.h"
#include "inspect/process.h"

#define HELLO_TIMEOUT_MS 30000
#define RETRY_US 1000
#define AGENT_GONE                                                                                 \
    "its agent has gone, or the program has closed the agent's descriptors; --status tells which"
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

G_DEFINE_QUARK(tm - control - error - quark, tm_control_error)

struct tm_client {
    pid_t pid;
    int pidfd; /* readable when the process has ended */
    int sock;  /* private */
    uint32_t seq;
    void (*waiting)(void *arg); /* NULL: nothing */
    void *waiting_arg;
    struct tm_msg_buf request, answer;
};

static const int exit_statuses[TM_CONTROL_ERRORS] = {
    [TM_CONTROL_ERROR_NOT_ATTACHED] = 27, [TM_CONTROL_ERROR_PERMISSION] = 30,
    [TM_CONTROL_ERROR_KERNEL] = 35,       [TM_CONTROL_ERROR_GONE] = 58,
    [TM_CONTROL_ERROR_NO_ANSWER] = 60,    [TM_CONTROL_ERROR_PROTOCOL] = 61,
    [TM_CONTROL_ERROR_OPTION] = 62,       [TM_CONTROL_ERROR_STATE] = 63,
    [TM_CONTROL_ERROR_OUTPUT] = 64,       [TM_CONTROL_ERROR_PYTHON] = 65,
    [TM_CONTROL_ERROR_RESOURCE] = 66,
};

int tm_control_error_exit_status(int code)
{
    return code >= 0 && code < TM_CONTROL_ERRORS ? exit_statuses[code] : 1;
}

static bool fail(GError **error, enum tm_control_error code, pid_t pid, const char *what)
{
    g_set_error(error, TM_CONTROL_ERROR, (int)code, "%d: %s", (int)pid, what);
    return false;
}

static bool fail_errno(GError **error, pid_t pid, const char *what, int number)
{
    enum tm_control_error code = TM_CONTROL_ERROR_RESOURCE;

    if (number == ESRCH)
        code = TM_CONTROL_ERROR_GONE;
    else if (number == EPERM || number == EACCES)
        code = TM_CONTROL_ERROR_PERMISSION;
    else if (number == ENOSYS)
        code = TM_CONTROL_ERROR_KERNEL;
    g_set_error(error, TM_CONTROL_ERROR, (int)code, "%d: %s: %s%s", (int)pid, what,
                g_strerror(number),
                code == TM_CONTROL_ERROR_PERMISSION ? " (be its user, or root)"
                : code == TM_CONTROL_ERROR_KERNEL   ? " (needs Linux 5.6 or newer)"
                                                    : "");
    return false;
}

/* pidfd_getfd, by way of a living thread where the main thread has ended, which has no descriptors
 * any more. Needs Linux 6.9 then. */
static int get_descriptor(const tm_client *client, int number)
{
    int fd = (int)syscall(SYS_pidfd_getfd, client->pidfd, number, 0);
    int error = errno;
    pid_t living = fd < 0 ? tm_process_living(client->pid) : client->pid;

    if (living == client->pid) {
        errno = error;
        return fd;
    }
    int threadfd = (int)syscall(SYS_pidfd_open, living, PIDFD_THREAD);
    if (threadfd < 0) {
        if (errno == EINVAL)
            errno = ENOSYS;
        return -1;
    }
    fd = (int)syscall(SYS_pidfd_getfd, threadfd, number, 0);
    error = errno;
    close(threadfd);
    errno = error;
    return fd;
}

/* A copy of the channel's client end. The number may stand for something of the program's by now:
 * what we send must never end up there. */
static int copy_channel(tm_client *client, const struct tm_state *state, GError **error)
{
    int domain = 0;
    socklen_t domain_bytes = sizeof(domain);
    struct stat st;
    int fd = get_descriptor(client, state->control_fd);

    if (fd < 0 && errno != EBADF) {
        fail_errno(error, client->pid, "cannot copy its control channel", errno);
        return -1;
    }
    if (fd >= 0 && !fstat(fd, &st) && S_ISSOCK(st.st_mode) &&
        (!state->control_inode || st.st_ino == state->control_inode) &&
        !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_bytes) && domain == AF_UNIX)
        return fd;
    if (fd >= 0)
        close(fd);
    fail(error, TM_CONTROL_ERROR_GONE, client->pid,
         "the program has closed the control channel; the agent opens another within 5 s");
    return -1;
}

/* Waits for the socket. The end of the process is noticed even while a forked child of it holds
 * the other end open. */
static bool wait_for(tm_client *client, int sock, short events, gint64 deadline_us, GError **error)
{
    for (;;) {
        struct pollfd pfds[] = {{.fd = sock, .events = events},
                                {.fd = client->pidfd, .events = POLLIN}};
        gint64 left_us = deadline_us - g_get_monotonic_time();
        bool step = client->waiting && left_us > 0;
        int ready = poll(pfds, 2, left_us > 0 && !step ? (int)((left_us + 999) / 1000) : 0);
        if (ready == 0 && step) {
            client->waiting(client->waiting_arg);
            continue;
        }
        if (ready > 0 && pfds[0].revents)
            return true;
        if (ready > 0)
            return fail(error, TM_CONTROL_ERROR_GONE, client->pid, "the process has ended");
        if (ready == 0)
            return fail(error, TM_CONTROL_ERROR_NO_ANSWER, client->pid,
                        "its agent does not answer: is the process stopped, or does a thread of "
                        "it keep the GIL?");
        if (errno != EINTR)
            return fail_errno(error, client->pid, "poll", errno);
    }
}

static bool send_on(tm_client *client, int sock, int fd, gint64 deadline_us, GError **error)
{
    for (;;) {
        int status = tm_msg_send(sock, &client->request, fd);
        if (status == 0)
            return true;
        if (status == -EPIPE || status == -ECONNRESET)
            return fail(error, TM_CONTROL_ERROR_GONE, client->pid, AGENT_GONE);
        if (status == -EMSGSIZE)
            return fail(error, TM_CONTROL_ERROR_OPTION, client->pid, "the options are too long");
        if (status != -EAGAIN)
            return fail_errno(error, client->pid, "cannot talk to its agent", -status);
        if (!wait_for(client, sock, POLLOUT, deadline_us, error))
            return false;
        g_usleep(RETRY_US);
    }
}

static bool receive(tm_client *client, gint64 deadline_us, GError **error)
{
    int fd;

    if (!wait_for(client, client->sock, POLLIN, deadline_us, error))
        return false;
    int status = tm_msg_recv(client->sock, &client->answer, &fd, 0);
    if (fd >= 0)
        close(fd);
    if (status == -EPIPE)
        return fail(error, TM_CONTROL_ERROR_GONE, client->pid, AGENT_GONE);
    if (status < 0)
        return fail(error, TM_CONTROL_ERROR_PROTOCOL, client->pid,
                    "its agent's answer is not understood");
    return true;
}

static bool say_hello(tm_client *client, const struct tm_state *state, GError **error)
{
    gint64 deadline_us = g_get_monotonic_time() + HELLO_TIMEOUT_MS * 1000ll;
    int ends[2];
    int channel = copy_channel(client, state, error);

    if (channel < 0)
        return false;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) {
        int number = errno;
        close(channel);
        return fail_errno(error, client->pid, "socketpair", number);
    }
    client->sock = ends[0];
    tm_msg_init(&client->request, TM_MSG_HELLO, ++client->seq);
    bool ok = send_on(client, channel, ends[1], deadline_us, error);
    close(ends[1]);
    close(channel);
    return ok && receive(client, deadline_us, error);
}

tm_client *tm_client_connect(pid_t pid, const struct tm_state *state, GError **error)
{
    g_autoptr(tm_client) client = g_new0(tm_client, 1);

    client->pid = pid;
    client->sock = -1;
    client->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (client->pidfd < 0) {
        fail_errno(error, pid, "cannot open the process", errno);
        return NULL;
    }
    if (!say_hello(client, state, error))
        return NULL;
    return g_steal_pointer(&client);
}

static bool has_ended(pid_t pid)
{
    struct tm_process process;

    return !tm_process_read(pid, &process, NULL) || process.state == 'Z' || process.state == 'X';
}

static bool find_agent(pid_t pid, struct tm_payload *ret, GError **error)
{
    if (!tm_inspect_find_payload(pid, NULL, ret, error)) {
        g_prefix_error(error, "%d: ", (int)pid);
        return false;
    }
    if (!ret->mapped || ret->inherited)
        return fail(error, TM_CONTROL_ERROR_NOT_ATTACHED, pid,
                    "not traced: attach first with tm-attach PID");
    if (!tm_payload_is_served(ret))
        return fail(error, TM_CONTROL_ERROR_NOT_ATTACHED, pid,
                    "not traced: the rest of an earlier attach is in it, without an agent");
    return true;
}

tm_client *tm_client_connect_pid(pid_t pid, uint64_t *ret_state_addr, GError **error)
{
    gint64 deadline_us = g_get_monotonic_time() + TM_LEAVING_PATIENCE_US;
    struct tm_payload payload;

    if (kill(pid, 0) && errno == ESRCH) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_NO_PROCESS, "%d: no such process",
                    (int)pid);
        return NULL;
    }
    for (;;) {
        g_autoptr(GError) failure = NULL;
        if (!find_agent(pid, &payload, error))
            return NULL;
        tm_client *client = tm_client_connect(pid, &payload.state, &failure);
        if (client && ret_state_addr)
            *ret_state_addr = payload.state_addr;
        if (client)
            return client;
        /* One that is just leaving will not be found the next time. */
        if (!g_error_matches(failure, TM_CONTROL_ERROR, TM_CONTROL_ERROR_GONE) ||
            g_get_monotonic_time() >= deadline_us || has_ended(pid)) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return NULL;
        }
        g_usleep(TM_LEAVING_LOOK_US);
    }
}

void tm_client_set_waiting(tm_client *client, void (*waiting)(void *arg), void *arg)
{
    client->waiting = waiting;
    client->waiting_arg = arg;
}

void tm_client_free(tm_client *client)
{
    if (!client)
        return;
    if (client->sock >= 0)
        close(client->sock);
    if (client->pidfd >= 0)
        close(client->pidfd);
    g_free(client);
}

struct tm_msg_buf *tm_client_request(tm_client *client, enum tm_msg_type type)
{
    tm_msg_init(&client->request, type, ++client->seq);
    return &client->request;
}

static enum tm_control_error code_of_agent(uint64_t code)
{
    switch (code) {
    case TM_CTL_E_OPTION:
        return TM_CONTROL_ERROR_OPTION;
    case TM_CTL_E_STATE:
        return TM_CONTROL_ERROR_STATE;
    case TM_CTL_E_IO:
        return TM_CONTROL_ERROR_OUTPUT;
    case TM_CTL_E_PYTHON:
        return TM_CONTROL_ERROR_PYTHON;
    case TM_CTL_E_RESOURCE:
        return TM_CONTROL_ERROR_RESOURCE;
    default:
        return TM_CONTROL_ERROR_PROTOCOL;
    }
}

bool tm_client_call(tm_client *client, int fd, int timeout_ms, GError **error)
{
    gint64 deadline_us = g_get_monotonic_time() + timeout_ms * 1000ll;

    if (!send_on(client, client->sock, fd, deadline_us, error))
        return false;
    do {
        if (!receive(client, deadline_us, error))
            return false;
    } while (client->answer.head.seq != client->request.head.seq);
    if (client->answer.head.type == TM_MSG_OK)
        return true;
    const char *message = tm_client_get(client, "message");
    return fail(error, code_of_agent(tm_client_get_u64(client, "error")), client->pid,
                message ? message : "its agent refuses without a reason");
}

const char *tm_client_get(const tm_client *client, const char *key)
{
    return tm_msg_get(&client->answer, key);
}

uint64_t tm_client_get_u64(const tm_client *client, const char *key)
{
    uint64_t value = 0;

    tm_msg_get_u64(&client->answer, key, &value);
    return value;
}

bool tm_client_has(const tm_client *client, const char *key)
{
    return tm_client_get(client, key) != NULL;
}

char *tm_client_dup_path(const tm_client *client, const char *key)
{
    const char *file = tm_client_get(client, key);
    const char *number = tm_client_get(client, "directory_fd");
    g_autofree char *folder = NULL;

    if (!file || g_path_is_absolute(file))
        return g_strdup(file);
    if (number) {
        g_autofree char *link =
            g_strdup_printf("/proc/%d/fd/%s", (int)tm_process_living(client->pid), number);
        folder = g_file_read_link(link, NULL);
    }
    if (!folder)
        folder = g_strdup(tm_client_get(client, "directory"));
    return folder ? g_build_filename(folder, file, NULL) : g_strdup(file);
}
