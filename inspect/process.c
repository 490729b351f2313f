// SPDX-License-Identifier: MIT
/* What /proc says of a process or thread, without touching it. */
#include "inspect/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inspect/error.h"

#define PF_KTHREAD 0x00200000u /* include/linux/sched.h */

/* Reads a small file of /proc whole; returns its length or -errno. */
static ssize_t read_small(const char *path, char *buffer, size_t buffer_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t used = 0;
    ssize_t n = 0;
    while (used < buffer_bytes - 1 && ((n = read(fd, buffer + used, buffer_bytes - 1 - used)) > 0 ||
                                       (n < 0 && errno == EINTR)))
        used += n > 0 ? (size_t)n : 0;
    int number = errno;
    close(fd);
    buffer[used] = '\0';
    return n < 0 ? -number : (ssize_t)used;
}

/* The text after "\nkey:" without blanks in front; NULL where the key is missing. */
static const char *field(const char *text, const char *key)
{
    g_autofree char *needle = g_strdup_printf("\n%s:", key);
    const char *found = strstr(text, needle);
    if (found == NULL)
        return NULL;
    found += strlen(needle);
    return found + strspn(found, " \t");
}

static long field_long(const char *text, const char *key, long missing)
{
    const char *value = field(text, key);
    return value != NULL ? strtol(value, NULL, 10) : missing;
}

static uint64_t field_hex(const char *text, const char *key)
{
    const char *value = field(text, key);
    return value != NULL ? strtoull(value, NULL, 16) : 0;
}

static void parse_ids(const char *text, const char *key, uint32_t ids[4])
{
    const char *value = field(text, key);
    if (value == NULL || sscanf(value, "%u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) != 4)
        memset(ids, 0xff, 4 * sizeof(ids[0]));
}

static pid_t last_ns_pid(const char *text, const char *key, pid_t pid)
{
    const char *value = field(text, key);
    if (value == NULL)
        return pid;
    pid_t last = pid;
    for (char *end; *value != '\0' && *value != '\n'; value = end) {
        long number = strtol(value, &end, 10);
        if (end == value)
            break;
        last = (pid_t)number;
        end += strspn(end, " \t");
    }
    return last;
}

/* The name is in parentheses and may hold anything, parentheses included: what follows begins
 * after the last one. */
static const char *stat_after_name(const char *stat)
{
    const char *paren = strrchr(stat, ')');
    return paren != NULL && paren[1] == ' ' ? paren + 2 : NULL;
}

static bool read_stat(pid_t pid, struct tm_process *ret, GError **error)
{
    char path[64], text[2048];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    ssize_t n = read_small(path, text, sizeof(text));
    if (n < 0) {
        tm_inspect_set_errno(error, (int)-n, "cannot read %s", path);
        return false;
    }
    const char *rest = stat_after_name(text);
    unsigned flags = 0;
    unsigned long long start = 0;
    if (rest == NULL ||
        sscanf(rest,
               "%c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &ret->state, &flags, &start) != 3) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT, "%s is not understood", path);
        return false;
    }
    ret->start_ticks = start;
    ret->kernel_thread = (flags & PF_KTHREAD) != 0;
    return true;
}

bool tm_process_read(pid_t pid, struct tm_process *ret, GError **error)
{
    char path[64], text[8192];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    ssize_t n = read_small(path, text, sizeof(text));
    if (n < 0) {
        tm_inspect_set_errno(error, (int)-n, "cannot read %s", path);
        return false;
    }
    struct tm_process self = {.pid = pid};
    if (!read_stat(pid, &self, error))
        return false;
    sscanf(text, "Name:\t%63[^\n]", self.name);
    self.tgid = (pid_t)field_long(text, "Tgid", pid);
    self.tracer_pid = (pid_t)field_long(text, "TracerPid", 0);
    self.ns_pid = last_ns_pid(text, "NStgid", pid);
    self.ns_tid = last_ns_pid(text, "NSpid", pid);
    self.seccomp = (int)field_long(text, "Seccomp", 0);
    const char *features = field(text, "x86_Thread_features");
    self.shadow_stack = features != NULL && strncmp(features, "shstk", strlen("shstk")) == 0;
    self.threads = (int)field_long(text, "Threads", 0);
    self.cap_permitted = field_hex(text, "CapPrm");
    self.cap_effective = field_hex(text, "CapEff");
    parse_ids(text, "Uid", self.uids);
    parse_ids(text, "Gid", self.gids);
    *ret = self;
    return true;
}

bool tm_process_has_ended(const struct tm_process *process)
{
    return (process->state == 'Z' || process->state == 'X') && process->threads <= 1;
}

int tm_process_yama_scope(void)
{
    char text[32];
    if (read_small("/proc/sys/kernel/yama/ptrace_scope", text, sizeof(text)) <= 0)
        return -1;
    return atoi(text);
}

bool tm_process_same_namespace(pid_t pid, const char *kind)
{
    char own[64], other[64];
    struct stat own_status, other_status;
    snprintf(own, sizeof(own), "/proc/self/ns/%s", kind);
    snprintf(other, sizeof(other), "/proc/%d/ns/%s", (int)pid, kind);
    return stat(own, &own_status) == 0 && stat(other, &other_status) == 0 &&
           own_status.st_ino == other_status.st_ino && own_status.st_dev == other_status.st_dev;
}

char tm_process_thread_state(pid_t pid, pid_t tid)
{
    char path[96], text[1024];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)pid, (int)tid);
    if (read_small(path, text, sizeof(text)) <= 0)
        return 0;
    const char *rest = stat_after_name(text);
    return rest != NULL ? *rest : 0;
}

static bool has_ended(char state)
{
    return state == 0 || state == 'Z' || state == 'X';
}

pid_t tm_process_living(pid_t pid)
{
    if (!has_ended(tm_process_thread_state(pid, pid)))
        return pid;
    g_autoptr(GArray) tids = tm_process_threads(pid, NULL);
    for (guint i = 0; tids != NULL && i < tids->len; i++) {
        pid_t tid = g_array_index(tids, pid_t, i);
        if (!has_ended(tm_process_thread_state(pid, tid)))
            return tid;
    }
    return pid;
}

static int compare_tids(const void *left, const void *right)
{
    pid_t a = *(const pid_t *)left, b = *(const pid_t *)right;
    return a < b ? -1 : a > b;
}

GArray *tm_process_threads(pid_t pid, GError **error)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *folder = opendir(path);
    if (folder == NULL) {
        tm_inspect_set_errno(error, errno, "cannot read %s", path);
        return NULL;
    }
    GArray *tids = g_array_new(FALSE, FALSE, sizeof(pid_t));
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        pid_t tid = (pid_t)atoi(entry->d_name);
        if (tid > 0)
            g_array_append_val(tids, tid);
    }
    closedir(folder);
    if (tids->len > 0)
        qsort(tids->data, tids->len, sizeof(pid_t), compare_tids);
    return tids;
}
