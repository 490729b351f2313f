// SPDX-License-Identifier: MIT
/*
 * The control protocol's packets: building, checking, sending, receiving.
 *
 * Runs in both processes: in the target (on the agent thread) and in tm-attach.
 * libc only; allocates nothing, keeps no state, never raises SIGPIPE and never
 * changes the flags of a socket that somebody else may share.
 */
#include "format/control.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* More descriptors than we would take: what a hostile peer sends beyond is closed by the kernel. */
#define FDS_MAX 8

void tm_msg_init(struct tm_msg_buf *buf, enum tm_msg_type type, uint32_t seq)
{
    buf->used_bytes = sizeof(buf->head);
    buf->overflow = false;
    buf->head = (struct tm_msg){.magic = TM_MSG_MAGIC, .type = (uint16_t)type, .seq = seq};
}

void tm_msg_put(struct tm_msg_buf *buf, const char *key, const char *value)
{
    size_t key_bytes = strlen(key), value_bytes = strlen(value);
    size_t room = TM_MSG_MAX_BYTES - buf->used_bytes;

    if (buf->overflow || key_bytes + 2 > room || value_bytes > room - key_bytes - 2) {
        buf->overflow = true;
        return;
    }
    char *to = buf->bytes + buf->used_bytes;
    memcpy(to, key, key_bytes);
    to[key_bytes] = '=';
    memcpy(to + key_bytes + 1, value, value_bytes + 1);
    buf->used_bytes += key_bytes + value_bytes + 2;
    buf->head.body_bytes = (uint32_t)(buf->used_bytes - sizeof(buf->head));
}

/* Writes the digits so that they end before `end`; returns their start. */
static char *format_u64(char *end, uint64_t value)
{
    do {
        *--end = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    return end;
}

void tm_msg_put_u64(struct tm_msg_buf *buf, const char *key, uint64_t value)
{
    char digits[24];

    digits[sizeof(digits) - 1] = '\0';
    tm_msg_put(buf, key, format_u64(digits + sizeof(digits) - 1, value));
}

void tm_msg_put_i64(struct tm_msg_buf *buf, const char *key, int64_t value)
{
    char digits[24];
    uint64_t magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;

    digits[sizeof(digits) - 1] = '\0';
    char *start = format_u64(digits + sizeof(digits) - 1, magnitude);
    if (value < 0)
        *--start = '-';
    tm_msg_put(buf, key, start);
}

const char *tm_msg_get(const struct tm_msg_buf *buf, const char *key)
{
    size_t key_bytes = strlen(key);
    const char *at = buf->bytes + sizeof(buf->head), *end = buf->bytes + buf->used_bytes;

    if (at >= end || end[-1] != '\0')
        return NULL;
    while (at < end) {
        size_t length = strlen(at);
        if (length > key_bytes && at[key_bytes] == '=' && !memcmp(at, key, key_bytes))
            return at + key_bytes + 1;
        at += length + 1;
    }
    return NULL;
}

bool tm_msg_get_u64(const struct tm_msg_buf *buf, const char *key, uint64_t *ret)
{
    const char *text = tm_msg_get(buf, key);
    uint64_t value = 0;

    if (!text || !*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *ret = value;
    return true;
}

bool tm_msg_valid(const struct tm_msg_buf *buf, size_t received_bytes)
{
    if (received_bytes < sizeof(buf->head) || received_bytes > TM_MSG_MAX_BYTES)
        return false;
    if (buf->head.magic != TM_MSG_MAGIC ||
        buf->head.body_bytes != received_bytes - sizeof(buf->head))
        return false;
    return buf->head.body_bytes == 0 || buf->bytes[received_bytes - 1] == '\0';
}

int tm_msg_send(int sock, const struct tm_msg_buf *buf, int fd_to_pass)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf->bytes, .iov_len = buf->used_bytes};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (buf->overflow)
        return -EMSGSIZE;
    if (fd_to_pass >= 0) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &fd_to_pass, sizeof(int));
    }
    for (;;) {
        /* Not blocking: a peer that does not read must never hold up the agent. */
        if (sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

/* Keeps the first descriptor that came along, closes the others. */
static int take_fd(struct msghdr *msg)
{
    int kept = -1;

    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS ||
            cmsg->cmsg_len < CMSG_LEN(0))
            continue;
        size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
            if (kept < 0)
                kept = fd;
            else
                close(fd);
        }
    }
    return kept;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int wait_readable(int sock, int timeout_ms)
{
    int64_t deadline_ms = timeout_ms < 0 ? 0 : now_ms() + timeout_ms;

    for (;;) {
        struct pollfd pfd = {.fd = sock, .events = POLLIN};
        int ready = poll(&pfd, 1, timeout_ms);
        if (ready > 0)
            return pfd.revents & POLLNVAL ? -EBADF : 0;
        if (ready == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
        if (timeout_ms >= 0) {
            int64_t left_ms = deadline_ms - now_ms();
            timeout_ms = left_ms > 0 ? (int)left_ms : 0;
        }
    }
}

int tm_msg_recv(int sock, struct tm_msg_buf *buf, int *ret_fd, int timeout_ms)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = buf->bytes, .iov_len = sizeof(buf->bytes)};
    struct msghdr msg;
    ssize_t n;

    *ret_fd = -1;
    do {
        int status = wait_readable(sock, timeout_ms);
        if (status < 0)
            return status;
        msg = (struct msghdr){.msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = control.bytes,
                              .msg_controllen = sizeof(control)};
        n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && (errno == EINTR || (errno == EAGAIN && timeout_ms < 0)));
    if (n < 0)
        return errno == EAGAIN ? -ETIMEDOUT : errno == ECONNRESET ? -EPIPE : -errno;

    int fd = take_fd(&msg);
    buf->used_bytes = (size_t)n;
    buf->overflow = false;
    if (n == 0 && fd < 0 && msg.msg_controllen == 0)
        return -EPIPE;
    if ((msg.msg_flags & MSG_TRUNC) || !tm_msg_valid(buf, (size_t)n)) {
        if (fd >= 0)
            close(fd);
        return -EBADMSG;
    }
    *ret_fd = fd;
    return 0;
}
