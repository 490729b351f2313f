// SPDX-License-Identifier: MIT
/* format/control.c: packets that are good, bad, too large, late, and with descriptors. */
#include "format/control.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct tm_msg_buf a, b;

static void pair(int ends[2])
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), ==, 0);
}

static unsigned count_fds(void)
{
    unsigned n = 0;
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);

    while (g_dir_read_name(dir))
        n++;
    g_dir_close(dir);
    return n;
}

static void test_keys(void)
{
    uint64_t value = 7;

    tm_msg_init(&a, TM_MSG_START, 42);
    tm_msg_put(&a, "output", "a=b\nc");
    tm_msg_put(&a, "empty", "");
    tm_msg_put_u64(&a, "max", UINT64_MAX);
    tm_msg_put_u64(&a, "zero", 0);
    tm_msg_put_i64(&a, "min", INT64_MIN);
    g_assert_true(tm_msg_valid(&a, a.used_bytes));
    g_assert_cmpstr(tm_msg_get(&a, "output"), ==, "a=b\nc");
    g_assert_cmpstr(tm_msg_get(&a, "empty"), ==, "");
    g_assert_cmpstr(tm_msg_get(&a, "min"), ==, "-9223372036854775808");
    g_assert_null(tm_msg_get(&a, "out"));
    g_assert_null(tm_msg_get(&a, "a"));
    g_assert_false(tm_msg_get_u64(&a, "missing", &value));
    g_assert_false(tm_msg_get_u64(&a, "empty", &value));
    g_assert_false(tm_msg_get_u64(&a, "min", &value));
    g_assert_cmpuint(value, ==, 7);
    g_assert_true(tm_msg_get_u64(&a, "max", &value));
    g_assert_cmpuint(value, ==, UINT64_MAX);
    g_assert_true(tm_msg_get_u64(&a, "zero", &value));
    g_assert_cmpuint(value, ==, 0);
    tm_msg_put(&a, "over", "18446744073709551616");
    g_assert_false(tm_msg_get_u64(&a, "over", &value));
}

static void test_overflow(void)
{
    char *large = g_strnfill(TM_MSG_MAX_BYTES, 'x');
    int ends[2];

    tm_msg_init(&a, TM_MSG_OK, 1);
    large[TM_MSG_MAX_BYTES - sizeof(struct tm_msg) - 3] = '\0';
    tm_msg_put(&a, "k", large); /* fills the packet to the last byte */
    g_assert_false(a.overflow);
    g_assert_cmpuint(a.used_bytes, ==, TM_MSG_MAX_BYTES);
    pair(ends);
    int fd;
    g_assert_cmpint(tm_msg_send(ends[0], &a, -1), ==, 0);
    g_assert_cmpint(tm_msg_recv(ends[1], &b, &fd, 1000), ==, 0);
    g_assert_cmpstr(tm_msg_get(&b, "k"), ==, large);
    tm_msg_put(&a, "k", "");
    g_assert_true(a.overflow);
    g_assert_cmpint(tm_msg_send(ends[0], &a, -1), ==, -EMSGSIZE);
    close(ends[0]);
    close(ends[1]);
    g_free(large);
}

static void test_invalid(void)
{
    tm_msg_init(&a, TM_MSG_STATUS, 1);
    tm_msg_put(&a, "key", "value");
    size_t n = a.used_bytes;
    g_assert_false(tm_msg_valid(&a, n - 1));
    g_assert_false(tm_msg_valid(&a, n + 1));
    g_assert_false(tm_msg_valid(&a, 0));
    g_assert_false(tm_msg_valid(&a, 15));
    a.bytes[n - 1] = 'x';
    g_assert_false(tm_msg_valid(&a, n));
    g_assert_null(tm_msg_get(&a, "key"));
    a.bytes[n - 1] = '\0';
    a.head.magic++;
    g_assert_false(tm_msg_valid(&a, n));
    /* A body of nothing but NULs is well formed and has no keys. */
    tm_msg_init(&a, TM_MSG_STATUS, 1);
    memset(a.bytes + 16, 0, 8);
    a.head.body_bytes = 8;
    a.used_bytes = 24;
    g_assert_true(tm_msg_valid(&a, 24));
    g_assert_null(tm_msg_get(&a, "key"));
}

static void test_passes_fd(void)
{
    int ends[2], fd;
    unsigned before;

    pair(ends);
    before = count_fds();
    tm_msg_init(&a, TM_MSG_HELLO, 3);
    g_assert_cmpint(tm_msg_send(ends[0], &a, ends[0]), ==, 0);
    g_assert_cmpint(tm_msg_recv(ends[1], &b, &fd, 1000), ==, 0);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, FD_CLOEXEC);
    close(fd);
    g_assert_cmpuint(count_fds(), ==, before);
    close(ends[0]);
    close(ends[1]);
}

static void send_raw(int sock, const void *bytes, size_t n, const int *fds, size_t n_fds)
{
    struct iovec iov = {(void *)(uintptr_t)bytes, n};
    char control[CMSG_SPACE(sizeof(int) * 32)] = "";
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fds) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * n_fds);
    }
    g_assert_cmpint(sendmsg(sock, &msg, 0), ==, (ssize_t)n);
}

static void test_garbage_leaks_nothing(void)
{
    int ends[2], fd, many[32];
    unsigned before;

    pair(ends);
    for (int i = 0; i < 32; i++)
        many[i] = ends[i % 2];
    before = count_fds();
    tm_msg_init(&a, TM_MSG_HELLO, 3);
    send_raw(ends[0], "garbage", 7, many, 5);
    g_assert_cmpint(tm_msg_recv(ends[1], &b, &fd, 1000), ==, -EBADMSG);
    g_assert_cmpint(fd, ==, -1);
    g_assert_cmpuint(count_fds(), ==, before);
    send_raw(ends[0], a.bytes, a.used_bytes, many, 32);
    g_assert_cmpint(tm_msg_recv(ends[1], &b, &fd, 1000), ==, 0);
    g_assert_cmpuint(count_fds(), ==, before + 1);
    close(fd);
    send_raw(ends[0], a.bytes, a.used_bytes - 1, many, 1);
    g_assert_cmpint(tm_msg_recv(ends[1], &b, &fd, 1000), ==, -EBADMSG);
    g_assert_cmpuint(count_fds(), ==, before);
    close(ends[0]);
    close(ends[1]);
}

static void test_ends(void)
{
    int ends[2], fd;

    pair(ends);
    g_assert_cmpint(tm_msg_recv(ends[1], &b, &fd, 0), ==, -ETIMEDOUT);
    g_assert_cmpint(tm_msg_recv(ends[1], &b, &fd, 5), ==, -ETIMEDOUT);
    close(ends[0]);
    g_assert_cmpint(tm_msg_recv(ends[1], &b, &fd, -1), ==, -EPIPE);
    tm_msg_init(&a, TM_MSG_OK, 3);
    g_assert_cmpint(tm_msg_send(ends[1], &a, -1), ==, -EPIPE); /* and no SIGPIPE */
    close(ends[1]);
}

static void test_never_blocks_on_send(void)
{
    int ends[2], status;

    pair(ends);
    tm_msg_init(&a, TM_MSG_OK, 3);
    do
        status = tm_msg_send(ends[0], &a, -1);
    while (status == 0);
    g_assert_cmpint(status, ==, -EAGAIN);
    close(ends[0]);
    close(ends[1]);
}

static void test_fuzz(void)
{
    for (int i = 0; i < 20000; i++) {
        size_t n = (size_t)g_test_rand_int_range(0, 64);
        uint64_t value;
        for (size_t at = 0; at < n; at++)
            a.bytes[at] = (char)g_test_rand_int_range(0, 256);
        if (n >= 16) {
            a.head.magic = TM_MSG_MAGIC;
            a.head.body_bytes = (uint32_t)n - 16;
            a.bytes[n - 1] = i % 2 ? '\0' : '=';
        }
        a.used_bytes = n;
        if (n >= 16 && tm_msg_valid(&a, n))
            tm_msg_get_u64(&a, "k", &value);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/control/keys", test_keys);
    g_test_add_func("/control/overflow", test_overflow);
    g_test_add_func("/control/rejects-invalid", test_invalid);
    g_test_add_func("/control/passes-descriptor", test_passes_fd);
    g_test_add_func("/control/garbage-leaks-nothing", test_garbage_leaks_nothing);
    g_test_add_func("/control/ends", test_ends);
    g_test_add_func("/control/never-blocks-on-send", test_never_blocks_on_send);
    g_test_add_func("/control/fuzz", test_fuzz);
    return g_test_run();
}
