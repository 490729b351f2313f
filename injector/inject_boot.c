// SPDX-License-Identifier: MIT
/* tm-attach's side of the boot block. Reads and writes the target's memory, never stops it. */
#include "injector/inject_boot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "injector/errors.h"
#include "injector/inject_step.h"
#include "injector/inject_stub.h"
#include "injector/inject_tracee.h"
#include "inspect/memory.h"
#include "inspect/process.h"

#define POLL_NS 300000l
#define BOOT_BUSY 6u /* times the bound, where the thread may only be waiting for a processor */

static uint64_t data_addr(const struct tm_boot_watch *watch)
{
    return watch->block_addr + TM_STUB_PAGE_BYTES;
}

static bool read_block(const struct tm_boot_watch *watch, struct tm_stub_data *ret)
{
    return tm_memory_read(watch->living_pid, data_addr(watch), ret, sizeof(*ret), NULL) &&
           ret->boot.magic == TM_BOOT_MAGIC;
}

static void write_u32(const struct tm_boot_watch *watch, size_t offset, uint32_t value)
{
    tm_memory_write(watch->living_pid, data_addr(watch) + offset, &value, sizeof(value), NULL);
}

static bool write_all(int fd, GBytes *bytes)
{
    gsize n_bytes = 0;
    const char *data = g_bytes_get_data(bytes, &n_bytes);
    for (gsize done = 0; done < n_bytes;) {
        ssize_t n = write(fd, data + done, n_bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (gsize)n;
    }
    return true;
}

static bool is_memfd(const char *link, const char *name)
{
    g_autofree char *target = g_file_read_link(link, NULL);
    g_autofree char *wanted = g_strdup_printf("/memfd:%s (deleted)", name);
    return target != NULL && strcmp(target, wanted) == 0;
}

/* The memfd is reached through the target's table of descriptors: no path of the target's mount
 * namespace is needed. The process may have called exec meanwhile, or its number may be another's
 * by now, and the descriptor's number with it: what lies behind it is looked at before it is opened
 * for writing. */
static int open_memfd(const struct tm_boot_watch *watch, const struct tm_stub_data *data)
{
    g_autofree char *path =
        g_strdup_printf("/proc/%d/fd/%d", (int)watch->living_pid, data->payload_fd);
    int handle = open(path, O_PATH | O_CLOEXEC);
    if (handle < 0)
        return -1;
    g_autofree char *own_path = g_strdup_printf("/proc/self/fd/%d", handle);
    int fd = -1;
    if (is_memfd(own_path, data->memfd_name))
        fd = open(own_path, O_WRONLY | O_CLOEXEC);
    else
        errno = ESRCH;
    int number = errno;
    close(handle);
    errno = number;
    return fd;
}

static bool hand_over(const struct tm_boot_watch *watch, struct tm_stub_data *data, GError **error)
{
    tm_step(TM_STEP_MEMFD, watch->pid);
    data->memfd_name[sizeof(data->memfd_name) - 1] = '\0';
    int fd = open_memfd(watch, data);
    /* A limit on the size of files (ulimit -f) of tm-attach's own. */
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    bool written = fd >= 0 && write_all(fd, watch->payload);
    int number = errno;
    signal(SIGXFSZ, old);
    if (fd >= 0)
        close(fd);
    if (!written) {
        g_set_error(
            error, TM_ATTACH_ERROR,
            number == ENOENT || number == ESRCH ? TM_ATTACH_ERROR_DIED : TM_ATTACH_ERROR_RESOURCE,
            "cannot write the payload into process %d: %s", (int)watch->pid, g_strerror(number));
        return false;
    }
    tm_step(TM_STEP_FILLED, watch->pid);
    write_u32(watch, offsetof(struct tm_stub_data, payload_ready), 1);
    tm_step(TM_STEP_READY, watch->pid);
    return true;
}

static enum tm_attach_error code_of(enum tm_boot_error error)
{
    switch (error) {
    case TM_BOOT_E_DLOPEN:
    case TM_BOOT_E_SYMBOL:
        return TM_ATTACH_ERROR_DLOPEN;
    case TM_BOOT_E_VERSION:
        return TM_ATTACH_ERROR_PAYLOAD;
    case TM_BOOT_E_PYTHON:
        return TM_ATTACH_ERROR_PYTHON;
    case TM_BOOT_E_GIL:
        return TM_ATTACH_ERROR_GIL;
    case TM_BOOT_E_LAYOUT:
        return TM_ATTACH_ERROR_LAYOUT;
    case TM_BOOT_E_RESOURCE:
        return TM_ATTACH_ERROR_RESOURCE;
    case TM_BOOT_E_BUSY:
        return TM_ATTACH_ERROR_ATTACHED;
    case TM_BOOT_OK:
        break;
    }
    return TM_ATTACH_ERROR_INTERNAL;
}

static void set_failure(const struct tm_boot_watch *watch, struct tm_stub_data *data,
                        GError **error)
{
    data->boot.message[sizeof(data->boot.message) - 1] = '\0';
    const char *message = data->boot.message;
    g_autofree char *own = NULL;
    if (*message == '\0' && data->payload_fd < 0)
        message = own = g_strdup_printf("memfd_create: %s", g_strerror(-data->payload_fd));
    else if (*message == '\0')
        message = "no reason was given";
    g_set_error(error, TM_ATTACH_ERROR, (int)code_of(data->boot.error),
                "the payload could not start in process %d: %s", (int)watch->pid, message);
    write_u32(watch, offsetof(struct tm_boot, error_seen), 1);
}

static bool is_stopped(const struct tm_boot_watch *watch)
{
    struct tm_process process;
    return tm_process_read(watch->living_pid, &process, NULL) && process.state == 'T';
}

static void set_timeout(const struct tm_boot_watch *watch, uint32_t phase, GError **error)
{
    if (is_stopped(watch)) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_STOPPED,
                    "process %d is stopped (SIGSTOP or Ctrl-Z), so that nothing can run in it; "
                    "continue it with kill -CONT %d and try again",
                    (int)watch->pid, (int)watch->pid);
        return;
    }
    if (phase == TM_BOOT_WAIT_GIL) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_GIL,
                    "process %d did not let go of the GIL within %.1f s: a C extension holds it; "
                    "try again, or wait longer",
                    (int)watch->pid, (double)watch->gil_ns / 1e9);
        return;
    }
    static const char *const doing[] = {"its thread was not scheduled", "its thread waits",
                                        "it is being loaded (another import holds the lock?)",
                                        "it is starting"};
    g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_TIMEOUT,
                "the payload did not start in process %d within %.1f s: %s; nothing was changed, "
                "try again",
                (int)watch->pid, (double)(BOOT_BUSY * watch->boot_ns) / 1e9,
                phase < G_N_ELEMENTS(doing) ? doing[phase] : "it does not answer");
}

static void set_gone(const struct tm_boot_watch *watch, GError **error)
{
    g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_DIED,
                "process %d ended or called exec while the payload started", (int)watch->pid);
}

enum poll { POLL_ON, POLL_DONE, POLL_FAILED, POLL_GONE };

static enum poll poll_once(const struct tm_boot_watch *watch, struct tm_stub_data *data,
                           bool *handed_over, GError **error)
{
    if (!read_block(watch, data)) {
        set_gone(watch, error);
        return POLL_GONE;
    }
    switch (data->boot.phase) {
    case TM_BOOT_RUNNING:
        return POLL_DONE;
    case TM_BOOT_FAILED:
        set_failure(watch, data, error);
        return POLL_FAILED;
    case TM_BOOT_ENDED:
        set_gone(watch, error);
        return POLL_FAILED;
    default:
        break;
    }
    if (!*handed_over && data->payload_fd >= 0) {
        *handed_over = true;
        return hand_over(watch, data, error) ? POLL_ON : POLL_FAILED;
    }
    return POLL_ON;
}

/* The claim is written blindly: the new thread looks at it again before each further step. */
void tm_inject_abandon(const struct tm_boot_watch *watch)
{
    write_u32(watch, offsetof(struct tm_boot, claim), TM_CLAIM_ABANDONED);
}

bool tm_inject_boot(const struct tm_boot_watch *watch, struct tm_boot *ret, GError **error)
{
    static struct tm_stub_data data;
    uint64_t deadline_ns = tm_tracee_now_ns() + watch->boot_ns;
    bool handed_over = false, gil_counted = false, extended = false;
    for (;;) {
        enum poll result = poll_once(watch, &data, &handed_over, error);
        if (result == POLL_DONE) {
            *ret = data.boot;
            tm_step(TM_STEP_RUNNING, watch->pid);
            return true;
        }
        /* Nothing is written where the block no longer is. */
        if (result == POLL_GONE)
            return false;
        if (result == POLL_FAILED)
            break;
        if (data.boot.phase == TM_BOOT_WAIT_GIL && !gil_counted) {
            gil_counted = true;
            deadline_ns += watch->gil_ns;
        }
        if (tm_tracee_now_ns() >= deadline_ns && !gil_counted && !extended && !is_stopped(watch)) {
            extended = true;
            deadline_ns += (BOOT_BUSY - 1) * watch->boot_ns;
        }
        if (tm_tracee_now_ns() >= deadline_ns) {
            set_timeout(watch, data.boot.phase, error);
            break;
        }
        if (watch->booting != NULL)
            watch->booting(watch->booting_arg, data.boot.phase);
        else
            nanosleep(&(struct timespec){0, POLL_NS}, NULL);
    }
    tm_inject_abandon(watch);
    return false;
}
