// SPDX-License-Identifier: MIT
#include "payload/bystanders.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "payload/clock.h"

enum { MOVED_NS = 1000 };

struct look {
    const struct tm_code_range *ranges;
    size_t n;
    uint64_t end_ns;
};

static bool read_task(const char *tid, const char *name, char *buf, size_t buf_bytes)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/task/%s/%s", tid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, buf, buf_bytes - 1);
    close(fd);
    buf[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* By hand: the strtoull of a new libc is a symbol that an old one does not have. */
static uint64_t read_number(const char **text, unsigned base)
{
    const char *p = *text;
    uint64_t number = 0;
    if (base == 16 && p[0] == '0' && p[1] == 'x')
        p += 2;
    for (;; p++) {
        unsigned digit = *p >= 'a' && *p <= 'f' ? (unsigned)(*p - 'a') + 10 : (unsigned)*p - '0';
        if (digit >= base)
            break;
        number = number * base + digit;
    }
    *text = p;
    return number;
}

static uint64_t run_ns(const char *tid)
{
    char text[128];
    const char *at = text;
    return read_task(tid, "schedstat", text, sizeof(text)) ? read_number(&at, 10) : 0;
}

static bool is_inside(const struct look *look, uint64_t pc)
{
    for (size_t i = 0; i < look->n; i++)
        if (pc >= look->ranges[i].begin && pc < look->ranges[i].end)
            return true;
    return false;
}

/* "NR ARG... SP PC", or "-1 SP PC" outside a call: the last word. */
static bool parse_place(const char *text, uint64_t *ret_pc)
{
    const char *last = strrchr(text, ' '), *before = last;
    while (before != NULL && before > text && before[-1] != ' ')
        before--;
    if (before == NULL || before == text)
        return false; /* "running" */
    last++;
    *ret_pc = read_number(&last, 16);
    return true;
}

static bool is_outside(const struct look *look, const char *tid)
{
    uint64_t first_ns = run_ns(tid), pc;
    struct timespec pause_time = {.tv_nsec = 200000};
    for (;;) {
        char text[256];
        if (!read_task(tid, "syscall", text, sizeof(text)))
            return access("/proc/thread-self/syscall", R_OK) == 0; /* it has ended */
        if (!parse_place(text, &pc)) {
            if (run_ns(tid) > first_ns + MOVED_NS)
                return true;
        } else if (!is_inside(look, pc)) {
            return true;
        }
        if (tm_clock_monotonic_ns() > look->end_ns)
            return false;
        nanosleep(&pause_time, NULL);
    }
}

bool tm_bystanders_are_outside(const struct tm_code_range *ranges, size_t n, int timeout_ms)
{
    struct look look = {ranges, n,
                        tm_clock_after_ms(tm_clock_monotonic_ns(), (uint64_t)timeout_ms)};
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    char own[16];
    snprintf(own, sizeof(own), "%d", (int)syscall(SYS_gettid));
    bool ok = dir != NULL;
    while (ok && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, own) != 0)
            ok = is_outside(&look, entry->d_name);
    if (dir != NULL)
        closedir(dir);
    return ok;
}
