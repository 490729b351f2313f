// SPDX-License-Identifier: MIT
/* The agent as a whole, in this process on a thread of its own, over the stub engine. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "format/boot.h"
#include "format/control.h"
#include "format/state.h"
#include "tests/stub_engine/stub_engine.h"

void tm_payload_start(struct tm_boot *boot);
extern struct tm_state tm_state_export;

typedef struct {
    struct tm_boot boot;
    pthread_t thread;
    char *path;
    int sock; /* private */
    unsigned fds_before;
    uint32_t seq;
    struct tm_msg_buf request, answer;
} fixture;

static unsigned count_fds(void)
{
    unsigned n = 0;
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);

    while (g_dir_read_name(dir))
        n++;
    return n;
}

static void *agent_main(void *arg)
{
    fixture *f = arg;

    tm_payload_start(&f->boot);
    return NULL;
}

static uint32_t wait_phase(fixture *f)
{
    for (int i = 0; i < 20000; i++) {
        uint32_t phase = atomic_load(&f->boot.phase);
        if (phase == TM_BOOT_RUNNING || phase == TM_BOOT_FAILED)
            return phase;
        g_usleep(1000);
    }
    return TM_BOOT_EMPTY;
}

static uint32_t boot(fixture *f)
{
    f->boot.magic = TM_BOOT_MAGIC;
    f->boot.version = TM_BOOT_VERSION;
    f->boot.size_bytes = sizeof(f->boot);
    g_assert_cmpint(pthread_create(&f->thread, NULL, agent_main, f), ==, 0);
    return wait_phase(f);
}

/* More than once: a thread may be joined only once. */
static void wait_for_end(fixture *f)
{
    if (f->thread != 0)
        pthread_join(f->thread, NULL);
    f->thread = 0;
}

static void set_up(fixture *f, gconstpointer data)
{
    (void)data;
    memset(&tm_stub, 0, sizeof(tm_stub));
    tm_stub.window_fd = -1;
    f->path = g_dir_make_tmp("tm-agent-XXXXXX", NULL);
    f->sock = -1;
    f->fds_before = count_fds();
}

static void remove_files(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_remove(file);
    }
    g_rmdir(path);
}

static void tear_down(fixture *f, gconstpointer data)
{
    (void)data;
    wait_for_end(f);
    if (f->sock >= 0)
        close(f->sock);
    g_assert_cmpuint(count_fds(), ==, f->fds_before);
    g_assert_cmpuint(tm_state_export.agent_alive, ==, 0);
    g_assert_cmpint(tm_state_export.control_fd, ==, -1);
    remove_files(f->path);
    g_free(f->path);
}

static int control_fd(void)
{
    return __atomic_load_n(&tm_state_export.control_fd, __ATOMIC_ACQUIRE);
}

/* A private connection, as tm-attach makes it. */
static int hello(fixture *f)
{
    int ends[2], fd;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), ==, 0);
    tm_msg_init(&f->request, TM_MSG_HELLO, 1);
    int status;
    while ((status = tm_msg_send(control_fd(), &f->request, ends[1])) == -EAGAIN)
        g_usleep(100); /* the garbage of others is in the way */
    g_assert_cmpint(status, ==, 0);
    close(ends[1]);
    g_assert_cmpint(tm_msg_recv(ends[0], &f->answer, &fd, 5000), ==, 0);
    g_assert_cmpuint(f->answer.head.type, ==, TM_MSG_OK);
    return ends[0];
}

static struct tm_msg_buf *ask(fixture *f, enum tm_msg_type type)
{
    tm_msg_init(&f->request, type, ++f->seq);
    return &f->request;
}

/* The type of the answer; events before it are skipped. */
static unsigned call(fixture *f, int fd)
{
    int got;

    tm_stub_fence();
    g_assert_cmpint(tm_msg_send(f->sock, &f->request, fd), ==, 0);
    if (fd >= 0)
        close(fd);
    do
        g_assert_cmpint(tm_msg_recv(f->sock, &f->answer, &got, 5000), ==, 0);
    while (f->answer.head.type == TM_MSG_EVENT);
    tm_stub_fence();
    g_assert_cmpuint(f->answer.head.seq, ==, f->seq);
    return f->answer.head.type;
}

static uint64_t number(fixture *f, const char *key)
{
    uint64_t value = UINT64_MAX;

    tm_msg_get_u64(&f->answer, key, &value);
    return value;
}

static int directory(fixture *f)
{
    return open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void start(fixture *f)
{
    g_assert_cmpuint(boot(f), ==, TM_BOOT_RUNNING);
    f->sock = hello(f);
    ask(f, TM_MSG_START);
    tm_msg_put(&f->request, "output", "a-$counter.tms");
    tm_msg_put(&f->request, "delay_ms", "0");
    tm_msg_put(&f->request, "threshold_bytes", "0");
    g_assert_cmpuint(call(f, directory(f)), ==, TM_MSG_OK);
}

static void detach(fixture *f)
{
    ask(f, TM_MSG_DETACH);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    g_assert_false(tm_stub.enabled);
}

static bool wait_file(fixture *f, const char *name)
{
    g_autofree char *path = g_build_filename(f->path, name, NULL);

    for (int i = 0; i < 5000; i++) {
        if (g_file_test(path, G_FILE_TEST_EXISTS))
            return true;
        g_usleep(1000);
    }
    return false;
}

static void test_life(fixture *f, gconstpointer data)
{
    (void)data;
    start(f);
    g_assert_true(tm_stub.enabled);
    g_assert_cmpstr(tm_msg_get(&f->answer, "state"), ==, "tracing");
    g_assert_cmpstr(tm_msg_get(&f->answer, "directory"), ==, f->path);
    ask(f, TM_MSG_SNAPSHOT);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    g_assert_cmpstr(tm_msg_get(&f->answer, "file"), ==, "a-0001.tms");
    g_assert_true(wait_file(f, "a-0001.tms"));
    ask(f, TM_MSG_STATUS);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    g_assert_cmpuint(number(f, "written"), ==, 1);
    g_assert_cmpstr(tm_msg_get(&f->answer, "next_file"), ==, "a-0002.tms");
    detach(f);
    g_assert_cmpstr(tm_msg_get(&f->answer, "hooks"), ==, "restored");
    g_assert_cmpuint(number(f, "unloads"), ==, 1);
    g_assert_cmpuint(tm_stub.gil_taken, ==, tm_stub.gil_dropped);
}

static void test_window(fixture *f, gconstpointer data)
{
    (void)data;
    start(f);
    ask(f, TM_MSG_SET);
    tm_msg_put(&f->request, "threshold_bytes", "1000");
    tm_msg_put(&f->request, "repeat", "2");
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    g_assert_cmpuint(tm_stub.window_high_bytes, ==, 1000);
    tm_stub_move_memory(5000);
    g_assert_true(wait_file(f, "a-0001.tms"));
    ask(f, TM_MSG_STATUS);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    g_assert_cmpuint(number(f, "next_low_bytes"), ==, 4000);
    g_assert_cmpuint(number(f, "next_high_bytes"), ==, 6000);
    g_assert_cmpuint(number(f, "repeat_left"), ==, 1);
    tm_stub_move_memory(4000);
    g_assert_true(wait_file(f, "a-0002.tms"));
    ask(f, TM_MSG_STATUS);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    g_assert_cmpuint(number(f, "scheduled"), ==, 0);
    g_assert_cmpint(tm_stub.window_fd, ==, -1);
    detach(f);
}

static void test_delay_and_end(fixture *f, gconstpointer data)
{
    (void)data;
    start(f);
    ask(f, TM_MSG_SET);
    tm_msg_put(&f->request, "delay_ms", "5");
    tm_msg_put(&f->request, "max_snapshots", "3");
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    g_assert_true(wait_file(f, "a-0003.tms"));
    wait_for_end(f); /* detaches by itself */
    g_assert_false(tm_stub.enabled);
    g_assert_false(g_file_test("a-0004.tms", G_FILE_TEST_EXISTS));
}

static void test_lifetime(fixture *f, gconstpointer data)
{
    (void)data;
    start(f);
    ask(f, TM_MSG_SET);
    tm_msg_put(&f->request, "lifetime_ms", "20");
    tm_msg_put(&f->request, "events", "1");
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    int fd;
    g_assert_cmpint(tm_msg_recv(f->sock, &f->answer, &fd, 5000), ==, 0);
    g_assert_cmpstr(tm_msg_get(&f->answer, "event"), ==, "detached");
    g_assert_cmpint(tm_msg_recv(f->sock, &f->answer, &fd, 5000), ==, -EPIPE);
}

static void test_write_error(fixture *f, gconstpointer data)
{
    (void)data;
    start(f);
    tm_stub.snapshot_status = -ENOSPC;
    ask(f, TM_MSG_SNAPSHOT);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_ERROR);
    g_assert_cmpuint(number(f, "error"), ==, TM_CTL_E_IO);
    ask(f, TM_MSG_STATUS);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    g_assert_cmpuint(number(f, "failed"), ==, 1);
    g_assert_nonnull(strstr(tm_msg_get(&f->answer, "last_error"), "the disk is full"));
    g_assert_true(tm_stub.enabled);
    detach(f);
}

static void test_bad_start(fixture *f, gconstpointer data)
{
    (void)data;
    g_assert_cmpuint(boot(f), ==, TM_BOOT_RUNNING);
    f->sock = hello(f);
    ask(f, TM_MSG_SNAPSHOT);
    g_assert_cmpuint(call(f, directory(f)), ==, TM_MSG_ERROR);
    g_assert_cmpuint(number(f, "error"), ==, TM_CTL_E_STATE);
    ask(f, TM_MSG_START);
    tm_msg_put(&f->request, "traceback_limit", "99999");
    g_assert_cmpuint(call(f, directory(f)), ==, TM_MSG_ERROR);
    g_assert_cmpuint(number(f, "error"), ==, TM_CTL_E_OPTION);
    ask(f, TM_MSG_START);
    tm_msg_put(&f->request, "output", "no/where/$counter");
    g_assert_cmpuint(call(f, directory(f)), ==, TM_MSG_ERROR);
    g_assert_cmpuint(number(f, "error"), ==, TM_CTL_E_IO);
    tm_stub.enable_status = -ENOMEM;
    ask(f, TM_MSG_START);
    g_assert_cmpuint(call(f, directory(f)), ==, TM_MSG_ERROR);
    g_assert_cmpuint(number(f, "error"), ==, TM_CTL_E_PYTHON);
    detach(f);
}

static void test_garbage(fixture *f, gconstpointer data)
{
    (void)data;
    start(f);
    int shared = control_fd();
    for (int i = 0; i < 200; i++) {
        char bytes[64];
        for (size_t at = 0; at < sizeof(bytes); at++)
            bytes[at] = (char)g_test_rand_int_range(0, 256);
        send(shared, bytes, (size_t)(i % 65), MSG_DONTWAIT);
        tm_msg_init(&f->request, (enum tm_msg_type)(i % 70), 0);
        tm_msg_send(shared, &f->request, i % 3 ? STDIN_FILENO : -1);
    }
    int half = hello(f); /* says half a message and goes */
    tm_msg_init(&f->request, TM_MSG_STATUS, 1);
    g_assert_cmpint(send(half, f->request.bytes, 9, 0), ==, 9);
    close(half);
    int mute = hello(f); /* asks for ever and never reads */
    while (tm_msg_send(mute, &f->request, -1) == 0)
        ;
    ask(f, TM_MSG_STATUS);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_OK);
    ask(f, (enum tm_msg_type)33);
    g_assert_cmpuint(call(f, -1), ==, TM_MSG_ERROR);
    detach(f);
    close(mute);
}

static void test_many_clients(fixture *f, gconstpointer data)
{
    int socks[20];

    (void)data;
    g_assert_cmpuint(boot(f), ==, TM_BOOT_RUNNING);
    for (int i = 0; i < 20; i++)
        socks[i] = hello(f);
    f->sock = hello(f); /* the newest is always served */
    detach(f);
    for (int i = 0; i < 20; i++)
        close(socks[i]);
}

static void test_channel_closed_by_program(fixture *f, gconstpointer data)
{
    (void)data;
    start(f);
    uint64_t inode = __atomic_load_n(&tm_state_export.control_inode, __ATOMIC_ACQUIRE);
    close(control_fd());
    ask(f, TM_MSG_STATUS); /* the next turn of the loop finds out; a new channel is made */
    tm_msg_send(f->sock, &f->request, -1);
    int fd;
    while (tm_msg_recv(f->sock, &f->answer, &fd, 5000) == 0)
        ;
    close(f->sock);
    while (__atomic_load_n(&tm_state_export.control_inode, __ATOMIC_ACQUIRE) == inode)
        g_usleep(1000);
    f->sock = hello(f);
    detach(f);
}

static void test_boot_failures(fixture *f, gconstpointer data)
{
    (void)data;
    f->boot.gil_timeout_ms = 20;
    tm_stub.gil_wait_ms = 200;
    g_assert_cmpuint(boot(f), ==, TM_BOOT_FAILED);
    g_assert_cmpint(f->boot.error, ==, TM_BOOT_E_GIL);
    g_assert_cmpuint(tm_stub.gil_dropped, ==, 0); /* told while it still waits */
    wait_for_end(f);
    g_assert_cmpuint(tm_stub.gil_dropped, ==, 1);

    tm_stub.gil_wait_ms = 0;
    tm_stub.finalizing = true;
    f->boot.phase = TM_BOOT_EMPTY;
    g_assert_cmpuint(boot(f), ==, TM_BOOT_FAILED);
    g_assert_cmpint(f->boot.error, ==, TM_BOOT_E_PYTHON);
    wait_for_end(f);

    tm_stub.finalizing = false;
    tm_stub.setup_status = -TM_BOOT_E_LAYOUT;
    f->boot.phase = TM_BOOT_EMPTY;
    g_assert_cmpuint(boot(f), ==, TM_BOOT_FAILED);
    g_assert_cmpint(f->boot.error, ==, TM_BOOT_E_LAYOUT);
    g_assert_cmpstr(f->boot.message, ==, "the layouts do not fit");
    wait_for_end(f);

    tm_stub.no_python = true;
    f->boot.phase = TM_BOOT_EMPTY;
    g_assert_cmpuint(boot(f), ==, TM_BOOT_FAILED);
    g_assert_cmpint(f->boot.error, ==, TM_BOOT_E_PYTHON);
    wait_for_end(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/agent/" name, fixture, NULL, set_up, func, tear_down)
    ADD("life", test_life);
    ADD("window", test_window);
    ADD("delay-and-end", test_delay_and_end);
    ADD("lifetime", test_lifetime);
    ADD("write-error", test_write_error);
    ADD("bad-start", test_bad_start);
    ADD("garbage", test_garbage);
    ADD("many-clients", test_many_clients);
    ADD("channel-closed-by-program", test_channel_closed_by_program);
    ADD("boot-failures", test_boot_failures);
    return g_test_run();
}
