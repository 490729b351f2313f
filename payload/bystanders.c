// SPDX-License-Identifier: MIT
#include "payload/bystanders.h"

#if defined(__x86_64__)

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "payload/clock.h"

enum {
    THREADS_MAX = 4096,
    MAPS_MAX = 65536,
    SIGNALS = 64,
    SCAN_BYTES = 8 << 20, /* of a stack: as much as one has as a rule; handlers are on top */
    SCAN_STARTS = 8,      /* stacks of one thread: signals may have ones of their own */
    ROUND_NS = 200000,
    RAN_NS = 50000,
};

struct thread {
    int tid;
    bool is_elsewhere;
    uint64_t ran_ns; /* 0: it was asleep whenever looked at */
};

struct map {
    uint64_t begin, end;
};

struct look {
    const struct tm_code_range *ranges;
    size_t n_ranges;
    struct thread *threads; /* THREADS_MAX */
    size_t n_threads;
    struct map *maps; /* MAPS_MAX, ascending */
    size_t n_maps;
    int memory; /* /proc/thread-self/mem */
    uint64_t restorers[SIGNALS];
    size_t n_restorers;
};

/* ---- what the kernel says ---- */

/* "thread-self", because "self" has no memory where the main thread has ended; it came with Linux
 * 3.17. */
static int open_own(const char *name)
{
    static const char *const folders[] = {"thread-self", "self"};
    int fd = -1;
    for (int i = 0; i < 2 && fd < 0; i++) {
        char path[64];
        snprintf(path, sizeof(path), "/proc/%s/%s", folders[i], name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    return fd;
}

/* By hand: the strtoull of a new libc is a symbol that an old one does not have. */
static uint64_t read_hex(const char **text)
{
    const char *p = *text;
    uint64_t number = 0;
    if (p[0] == '0' && p[1] == 'x')
        p += 2;
    for (;; p++) {
        unsigned digit = *p >= 'a' && *p <= 'f' ? (unsigned)(*p - 'a') + 10 : (unsigned)*p - '0';
        if (digit >= 16)
            break;
        number = number * 16 + digit;
    }
    *text = p;
    return number;
}

enum where { ENDED, RUNNING, WAITING, UNKNOWN };

/* The file has "NR ARG... SP PC", "-1 SP PC" or "running". */
static enum where find_thread(int tid, uint64_t *ret_sp, uint64_t *ret_pc)
{
    char path[64], text[256];
    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT && access("/proc/thread-self/syscall", R_OK) == 0 ? ENDED : UNKNOWN;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    int error = errno;
    close(fd);
    if (n <= 0)
        return n < 0 && error == ESRCH ? ENDED : UNKNOWN;
    text[n] = '\0';
    const char *pc = strrchr(text, ' '), *sp = pc;
    if (pc == NULL)
        return RUNNING;
    while (sp > text && sp[-1] != ' ')
        sp--;
    pc++;
    *ret_sp = read_hex(&sp);
    *ret_pc = read_hex(&pc);
    return WAITING;
}

/* ---- what handlers have interrupted ---- */

/* Where handlers return to: the word in front of the context that the kernel saved. */
static bool list_restorers(struct look *look)
{
    enum { HAS_RESTORER = 0x04000000 }; /* SA_RESTORER of the kernel */
    for (int number = 1; number <= SIGNALS; number++) {
        struct {
            void *handler;
            unsigned long flags;
            void *restorer;
            uint64_t mask;
        } action = {0};
        if (syscall(SYS_rt_sigaction, number, NULL, &action, sizeof(action.mask)) != 0)
            return false;
        bool is_new = action.flags & HAS_RESTORER && action.restorer != NULL;
        for (size_t i = 0; is_new && i < look->n_restorers; i++)
            is_new = look->restorers[i] != (uintptr_t)action.restorer;
        if (is_new)
            look->restorers[look->n_restorers++] = (uintptr_t)action.restorer;
    }
    return true;
}

static bool is_restorer(const struct look *look, uint64_t word)
{
    for (size_t i = 0; i < look->n_restorers; i++)
        if (word == look->restorers[i])
            return true;
    return false;
}

static void add_map(struct look *look, const char *line)
{
    uint64_t begin = read_hex(&line);
    line++;
    uint64_t end = read_hex(&line);
    if (line[0] == ' ' && line[1] == 'r' && line[2] == 'w' && look->n_maps < MAPS_MAX)
        look->maps[look->n_maps++] = (struct map){begin, end};
}

static bool list_maps(struct look *look)
{
    char text[4096 + 1];
    size_t kept = 0;
    ssize_t n;
    int fd = open_own("maps");
    look->n_maps = 0;
    while (fd >= 0 && (n = read(fd, text + kept, sizeof(text) - 1 - kept)) > 0) {
        char *line = text, *line_end;
        text[kept + (size_t)n] = '\0';
        while ((line_end = strchr(line, '\n')) != NULL) {
            add_map(look, line);
            line = line_end + 1;
        }
        kept = strlen(line);
        memmove(text, line, kept);
    }
    if (fd >= 0)
        close(fd);
    return look->n_maps > 0;
}

/* The end of the mapping; 0: there is none. */
static uint64_t map_end(const struct look *look, uint64_t addr)
{
    size_t low = 0, high = look->n_maps;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (look->maps[middle].end <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low < look->n_maps && look->maps[low].begin <= addr ? look->maps[low].end : 0;
}

static bool is_inside(const struct look *look, uint64_t pc)
{
    for (size_t i = 0; i < look->n_ranges; i++)
        if (pc >= look->ranges[i].begin && pc < look->ranges[i].end)
            return true;
    return false;
}

static bool read_word(const struct look *look, uint64_t addr, uint64_t *ret)
{
    return pread(look->memory, ret, sizeof(*ret), (off_t)addr) == (ssize_t)sizeof(*ret);
}

/* Stacks to be searched. */
struct starts {
    uint64_t addr[SCAN_STARTS];
    size_t n;
};

/* at: of the word that is a restorer. What lies there may be a frame that is left over from
 * before, so that nothing is skipped for its sake. */
static bool frame_is_outside(const struct look *look, uint64_t at, uint64_t end,
                             struct starts *starts)
{
    const size_t saved = sizeof(uint64_t) + offsetof(ucontext_t, uc_mcontext.gregs);
    uint64_t sp, pc;
    if (!read_word(look, at + saved + REG_RSP * sizeof(greg_t), &sp) ||
        !read_word(look, at + saved + REG_RIP * sizeof(greg_t), &pc))
        return true;
    if (is_inside(look, pc))
        return false;
    if ((sp < at || sp >= end) && map_end(look, sp) != 0 && starts->n < SCAN_STARTS)
        starts->addr[starts->n++] = sp;
    return true;
}

static bool stack_is_outside(const struct look *look, uint64_t sp, struct starts *starts)
{
    uint64_t words[512], end = map_end(look, sp);
    if (end == 0)
        return false;
    if (end - sp > SCAN_BYTES)
        end = sp + SCAN_BYTES;
    for (uint64_t at = sp & ~7ull; at < end; at += sizeof(words)) {
        size_t wanted = end - at < sizeof(words) ? end - at : sizeof(words);
        ssize_t n = pread(look->memory, words, wanted, (off_t)at);
        if (n != (ssize_t)wanted)
            return false;
        for (size_t i = 0; i < wanted / sizeof(words[0]); i++)
            if (is_restorer(look, words[i]) &&
                !frame_is_outside(look, at + i * sizeof(words[0]), end, starts))
                return false;
    }
    return true;
}

static bool interrupted_is_outside(const struct look *look, uint64_t sp)
{
    struct starts starts = {.addr = {sp}, .n = 1};
    for (size_t i = 0; i < starts.n; i++)
        if (!stack_is_outside(look, starts.addr[i], &starts))
            return false;
    return true;
}

/* ---- all threads ---- */

static bool look_at(const struct look *look, struct thread *thread)
{
    uint64_t now_ns = tm_clock_thread_ns(thread->tid), sp, pc;
    switch (find_thread(thread->tid, &sp, &pc)) {
    case ENDED:
        return true;
    case RUNNING:
        if (thread->ran_ns == 0)
            thread->ran_ns = now_ns;
        return now_ns > thread->ran_ns + RAN_NS;
    case WAITING:
        /* 0: it is ending. */
        return sp == 0 || (!is_inside(look, pc) && interrupted_is_outside(look, sp));
    default:
        return false;
    }
}

static struct thread *find_or_add(struct look *look, int tid)
{
    for (size_t i = 0; i < look->n_threads; i++)
        if (look->threads[i].tid == tid)
            return &look->threads[i];
    if (look->n_threads == THREADS_MAX)
        return NULL;
    look->threads[look->n_threads] = (struct thread){.tid = tid};
    return &look->threads[look->n_threads++];
}

/*
 * One round. True: there was no thread that had not been seen elsewhere in a round before. So every
 * listing is followed by another: where a thread ends while the kernel lists them, it leaves one
 * out (proc_task_readdir of fs/proc/base.c goes on by its number in the list).
 */
static bool look_at_all(struct look *look)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    int own = (int)syscall(SYS_gettid);
    bool all = dir != NULL, has_maps = false;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        int tid = 0;
        for (const char *p = entry->d_name; *p >= '0' && *p <= '9'; p++)
            tid = tid * 10 + (*p - '0');
        if (tid == 0 || tid == own)
            continue;
        struct thread *thread = find_or_add(look, tid);
        if (thread != NULL && thread->is_elsewhere)
            continue;
        all = false;
        if (!has_maps && !(has_maps = list_maps(look)))
            break;
        if (thread != NULL)
            thread->is_elsewhere = look_at(look, thread);
    }
    if (dir != NULL)
        closedir(dir);
    return all;
}

static bool look_until(struct look *look, uint64_t end_ns)
{
    const struct timespec pause_time = {.tv_nsec = ROUND_NS};
    while (!look_at_all(look)) {
        if (tm_clock_monotonic_ns() > end_ns)
            return false;
        nanosleep(&pause_time, NULL);
    }
    return true;
}

bool tm_bystanders_are_outside(const struct tm_code_range *ranges, size_t n, int timeout_ms)
{
    const size_t n_bytes = THREADS_MAX * sizeof(struct thread) + MAPS_MAX * sizeof(struct map);
    uint64_t end_ns = tm_clock_after_ms(tm_clock_monotonic_ns(), (uint64_t)timeout_ms);
    struct look look = {.ranges = ranges, .n_ranges = n, .memory = open_own("mem")};
    void *tables = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = false;
    if (look.memory >= 0 && tables != MAP_FAILED && list_restorers(&look)) {
        look.maps = tables;
        look.threads = (struct thread *)(look.maps + MAPS_MAX);
        ok = look_until(&look, end_ns);
    }
    if (tables != MAP_FAILED)
        munmap(tables, n_bytes);
    if (look.memory >= 0)
        close(look.memory);
    return ok;
}

#endif
