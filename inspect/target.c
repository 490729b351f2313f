// SPDX-License-Identifier: MIT
/* What all sources share, and the live process. */
#include "inspect/target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "inspect/error.h"
#include "inspect/memory.h"
#include "inspect/process.h"

size_t tm_target_read_some(tm_target *target, uint64_t addr, void *buffer, size_t n_bytes)
{
    /* User space ends below 2^47; what lies above is no pointer but garbage. */
    if (addr >> 47 != 0 || n_bytes >> 47 != 0)
        return 0;
    ssize_t n = target->ops->read_some(target->data, addr, buffer, n_bytes);
    return n < 0 ? 0 : (size_t)n;
}

bool tm_target_read(tm_target *target, uint64_t addr, void *buffer, size_t n_bytes,
                    const char *what, GError **error)
{
    size_t n = tm_target_read_some(target, addr, buffer, n_bytes);
    if (n == n_bytes)
        return true;
    g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT,
                "%s at 0x%" G_GINT64_MODIFIER
                "x cannot be read: the memory at 0x%" G_GINT64_MODIFIER "x is not there",
                what, addr, addr + n);
    return false;
}

const void *tm_target_view(tm_target *target, uint64_t addr, void *buffer, size_t n_bytes)
{
    if (addr >> 47 != 0 || n_bytes >> 47 != 0)
        return NULL;
    const void *place = target->ops->peek(target->data, addr, n_bytes);
    if (place != NULL)
        return place;
    return tm_target_read_some(target, addr, buffer, n_bytes) == n_bytes ? buffer : NULL;
}

void tm_target_free(tm_target *target)
{
    if (target == NULL)
        return;
    tm_modules_free(target->modules);
    if (target->ops->free != NULL)
        target->ops->free(target->data);
    g_free(target->facts.cmdline);
    g_free(target->name);
    g_free(target);
}

/* ---- live ---- */

static ssize_t live_read_some(void *data, uint64_t addr, void *buffer, size_t n_bytes)
{
    return tm_memory_read_some(GPOINTER_TO_INT(data), addr, buffer, n_bytes);
}

static const void *live_peek(void *data, uint64_t addr, size_t n_bytes)
{
    (void)data;
    (void)addr;
    (void)n_bytes;
    return NULL;
}

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static char *read_text(pid_t pid, const char *name, gsize *ret_bytes)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, name);
    char *text = NULL;
    return g_file_get_contents(path, &text, ret_bytes, NULL) ? text : NULL;
}

/* Fields of /proc/PID/stat behind the name, proc(5): the second is ppid, the twentieth the start
 * in ticks after boot. */
static void read_stat(pid_t pid, struct tm_target_facts *ret)
{
    g_autofree char *text = read_text(pid, "stat", NULL);
    const char *behind = text != NULL ? strrchr(text, ')') : NULL;
    g_auto(GStrv) fields = behind != NULL ? g_strsplit(behind + 1, " ", 32) : NULL;
    long hz = sysconf(_SC_CLK_TCK);
    if (fields == NULL || g_strv_length(fields) < 21 || hz <= 0)
        return;
    ret->ppid = g_ascii_strtoll(fields[2], NULL, 10);
    int64_t ticks = g_ascii_strtoll(fields[20], NULL, 10);
    ret->start_time_ns =
        now_ns(CLOCK_REALTIME) - now_ns(CLOCK_BOOTTIME) + ticks * (1000000000 / hz);
}

static void read_facts(pid_t pid, const struct tm_process *process, struct tm_target_facts *ret)
{
    ret->pid = process->ns_pid;
    ret->timestamp_ns = now_ns(CLOCK_REALTIME);
    read_stat(pid, ret);
    gsize n_bytes = 0;
    ret->cmdline = read_text(pid, "cmdline", &n_bytes);
    for (gsize i = 0; i + 1 < n_bytes; i++)
        if (ret->cmdline[i] == '\0')
            ret->cmdline[i] = ' ';
    g_autofree char *statm = read_text(pid, "statm", NULL);
    unsigned long size = 0, resident = 0;
    if (statm != NULL && sscanf(statm, "%lu %lu", &size, &resident) == 2) {
        ret->vms_bytes = (int64_t)size * sysconf(_SC_PAGESIZE);
        ret->rss_bytes = (int64_t)resident * sysconf(_SC_PAGESIZE);
    }
}

static const struct tm_target_ops live_ops = {live_read_some, live_peek, NULL};

void tm_target_init_memory(tm_target *ret, pid_t pid)
{
    *ret = (tm_target){.ops = &live_ops, .data = GINT_TO_POINTER(pid), .live = true};
}

tm_target *tm_target_live(pid_t pid, GError **error)
{
    struct tm_process process;
    if (!tm_process_read(pid, &process, error))
        return NULL;
    tm_modules *modules = tm_modules_read(pid, error);
    if (modules == NULL)
        return NULL;
    tm_target *self = g_new0(tm_target, 1);
    self->ops = &live_ops;
    self->data = GINT_TO_POINTER(modules->pid);
    self->name = g_strdup_printf("process %d", (int)pid);
    self->live = true;
    self->modules = modules;
    read_facts(modules->pid, &process, &self->facts);
    /* Reading maps and reading memory are two permissions: say so now, and not at the first table
     * as if that were missing. */
    char byte;
    ssize_t n =
        modules->count > 0 ? live_read_some(self->data, modules->items[0].start_addr, &byte, 1) : 1;
    if (n < 0) {
        tm_inspect_set_errno(error, (int)-n, "the memory of process %d cannot be read", (int)pid);
        tm_target_free(self);
        return NULL;
    }
    return self;
}
