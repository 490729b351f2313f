// SPDX-License-Identifier: MIT
#include "payload/tracer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "format/boot.h"
#include "payload/arena.h"
#include "payload/clock.h"
#include "payload/code.h"
#include "payload/filter.h"
#include "payload/gil.h"
#include "payload/hooks.h"
#include "payload/layout.h"
#include "payload/native/native.h"
#include "payload/pyapi.h"
#include "payload/query.h"
#include "payload/redirect.h"
#include "payload/sample.h"
#include "payload/snapshot.h"
#include "payload/store.h"
#include "payload/traceback.h"
#include "payload/tstate.h"
#include "payload/watch.h"

/*
 * The store has users: tracing itself and every snapshot under way. The last one takes it down, so
 * that neither waits for the other while it holds the GIL. Guarded by the GIL for 0 -> 1.
 */
enum { STORE_CLOSING = -1 };
static _Atomic int store_users;
static _Atomic int window_eventfd = -1;
/* Odd while tm_tracer_set_window writes: a hook may read one half of the old and one of the new. */
static bool ready;

int tm_tracer_setup(const struct tm_layout *dwarf, char *message, size_t message_bytes)
{
    if (ready)
        return 0;
    if (!tm_pyapi_load(message, message_bytes))
        return -TM_BOOT_E_PYTHON;
    if (!tm_layout_choose(dwarf, message, message_bytes))
        return -TM_BOOT_E_PYTHON;
    if (!tm_code_setup(message, message_bytes) || !tm_layout_check(message, message_bytes))
        return -TM_BOOT_E_LAYOUT;
    tm_tstate_setup();
    if (tm_py.redirected && !tm_redirect_prepare(message, message_bytes))
        return -TM_BOOT_E_PYTHON;
    if (!tm_hooks_setup()) {
        snprintf(message, message_bytes,
                 "the kernel has no MADV_WIPEONFORK (Linux 4.14), or memory is short");
        return -TM_BOOT_E_RESOURCE;
    }
    tm_state_export.py_version = tm_py.version_hex;
    snprintf(tm_state_export.python, sizeof(tm_state_export.python), "%s", tm_py.version);
    tm_state_export.flags = (tm_py.redirected ? TM_STATE_REDIRECTED : 0) |
                            (tm_py.free_threaded ? TM_STATE_FREE_THREADED : 0);
    tm_state_export.layout_source = tm_layout.source;
    tm_state_export.pid = (int32_t)getpid();
    ready = true;
    return 0;
}

/* Called by hooks, on any thread: one write. */
static void window_crossed(void)
{
    int saved_errno = errno;
    uint64_t one = 1;
    int fd = atomic_load(&window_eventfd);
    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0) {
        /* The counter is full: the agent is awake anyway. */
    }
    errno = saved_errno;
}

void tm_tracer_set_window(int eventfd, uint64_t low_bytes, uint64_t high_bytes)
{
    atomic_store(&window_eventfd, eventfd);
    if (eventfd < 0)
        tm_watch_clear(TM_WATCH_AGENT);
    else
        tm_watch_set(TM_WATCH_AGENT, (int64_t)low_bytes,
                     high_bytes > INT64_MAX ? INT64_MAX : (int64_t)high_bytes, window_crossed);
}

static void store_release(void)
{
    int users = atomic_load(&store_users);
    while (
        !atomic_compare_exchange_weak(&store_users, &users, users == 1 ? STORE_CLOSING : users - 1))
        ;
    if (users == 1) {
        /* Nobody may begin anew before the old store is gone. */
        tm_store_done();
        tm_traceback_done();
        tm_native_done();
        atomic_store(&store_users, 0);
    }
}

/* The first call in a forked child: nothing of the parent's store was inherited, and its other
 * threads are not here. GIL. */
static void adopt_if_forked(void)
{
    if (!tm_hooks_forked())
        return;
    tm_store_abandon();
    tm_traceback_abandon();
    tm_native_abandon();
    tm_snapshot_abandon();
    atomic_store(&store_users, 0);
    atomic_store(&window_eventfd, -1);
    tm_watch_forget();
    atomic_store(&tm_state_export.tracing, TM_TRACING_OFF);
    tm_state_export.pid = (int32_t)getpid();
    tm_hooks_adopt();
}

bool tm_tracer_hold(void)
{
    int users = atomic_load(&store_users);
    do {
        if (!tm_tracer_is_enabled() || users <= 0)
            return false;
    } while (!atomic_compare_exchange_weak(&store_users, &users, users + 1));
    return true;
}

void tm_tracer_unhold(void)
{
    store_release();
}

void tm_tracer_measure(void)
{
    if (!tm_tracer_hold())
        return;
    atomic_store(&tm_state_export.own_free_bytes,
                 tm_store_measure(tm_traceback_resident_bytes() + tm_native_resident_bytes()));
    atomic_store(&tm_state_export.measured_ns, tm_clock_real_ns());
    tm_tracer_unhold();
}

void tm_tracer_trim(void)
{
    struct tm_shadow_trim trim = {0};
    int gil;
    if (!tm_tracer_hold())
        return;
    while (tm_shadow_trim_find(&trim)) {
        if (tm_hooks_gil_take(&gil) < 0)
            break;
        tm_store_stop();
        tm_shadow_trim_do(&trim);
        tm_store_go();
        tm_hooks_gil_drop(gil);
    }
    tm_tracer_unhold();
}

static bool store_up(void)
{
    /* The mimalloc of free-threaded builds has blocks of 8 bytes, as pymalloc aligns up to 3.7. */
    uint32_t granule_shift = tm_py.version_hex < 0x03080000 || tm_py.free_threaded
                                 ? TM_GRANULE_SHIFT_OLD
                                 : TM_GRANULE_SHIFT;
    tm_lanes_used = tm_py.free_threaded ? TM_LANES : TM_LANE_SHARED + 1;
    if (!tm_store_init(granule_shift))
        return false;
    if (!tm_traceback_init()) {
        tm_store_done();
        return false;
    }
    tm_store.window_crossed = tm_watch_crossed;
    tm_watch_renew();
    tm_filter_apply_all();
    return true;
}

static int set_native(uint32_t depth, char *message, size_t message_bytes)
{
    tm_store_stop();
    bool ok = tm_native_enable_locked(depth);
    tm_state_export.native_depth = tm_native_depth;
    tm_hooks_refit();
    tm_hooks_choose_half();
    tm_store_go();
    if (!ok)
        snprintf(message, message_bytes, "no memory for native frames");
    return ok ? 0 : -ENOMEM;
}

int tm_tracer_prepare_native(char *message, size_t message_bytes)
{
    int gil;
    if (tm_hooks_forked()) {
        /* Not while the program waits for us. */
        tm_native_wait_for_loader();
        if (tm_gil_take(&gil) < 0) {
            snprintf(message, message_bytes, "the Python interpreter is shutting down");
            return -ENODEV;
        }
        adopt_if_forked(); /* which forgets what was prepared */
        tm_gil_drop(gil);
    }
    return tm_native_prepare(message, message_bytes);
}

void tm_tracer_refresh_native(void)
{
    tm_native_refresh();
}

uint32_t tm_tracer_native_depth(void)
{
    return tm_native_depth;
}

unsigned tm_tracer_change_begin(unsigned attempt)
{
    /* How long the program may be held up for a thread that gets no processor. */
    static const unsigned look_ms[] = {10, 20, 40, 80, 160, 320, 320, 320, 320};
    bool is_last = attempt >= sizeof(look_ms) / sizeof(look_ms[0]);
    if (!tm_py.redirected || is_last || tm_redirect_look((int)look_ms[attempt]))
        return 0;
    return look_ms[attempt];
}

void tm_tracer_change_end(void)
{
    if (tm_py.redirected)
        tm_redirect_forget_look();
}

/* GIL. */
static void set_restarts(struct tm_restarts restarts)
{
    tm_state_export.restarts = restarts.count;
    tm_state_export.restart_lost_blocks = restarts.lost_blocks;
}

int tm_tracer_enable(const struct tm_tracer_options *options, char *message, size_t message_bytes)
{
    if (!ready) {
        snprintf(message, message_bytes, "tracing is not set up");
        return -EINVAL;
    }
    if (options->traceback_limit > TM_TRACEBACK_LIMIT_MAX) {
        snprintf(message, message_bytes, "the number of frames must be in range [0; %u]",
                 TM_TRACEBACK_LIMIT_MAX);
        return -EINVAL;
    }
    if (tm_tracer_is_enabled()) {
        tm_tracer_set_limit(options->traceback_limit);
        return set_native(options->native_depth, message, message_bytes);
    }
    if (!tm_hooks_setup()) {
        snprintf(message, message_bytes, "no memory for the hooks");
        return -ENOMEM;
    }
    if (tm_py.redirected && !tm_redirect_prepare(message, message_bytes))
        return -EPERM;
    adopt_if_forked();
    if (atomic_load(&store_users) != 0) {
        snprintf(message, message_bytes, "a snapshot of the last session is still being written");
        return -EBUSY;
    }
    if (!store_up()) {
        snprintf(message, message_bytes, "no memory for the traces");
        return -ENOMEM;
    }
    set_restarts((struct tm_restarts){0, 0});
    atomic_store(&tm_state_export.measured_ns, 0);
    atomic_store(&store_users, 1);
    if (set_native(options->native_depth, message, message_bytes) < 0) {
        store_release();
        return -ENOMEM;
    }
    tm_traceback_limit = options->traceback_limit;
    tm_state_export.traceback_limit = options->traceback_limit;
    tm_state_export.sample_bytes = options->sample_bytes;
    tm_state_export.enabled_ns = tm_clock_real_ns();
    tm_state_export.snapshots = 0;
    tm_store.sample_mean_bytes = (double)options->sample_bytes;
    if (options->sample_bytes != 0)
        tm_sample_init(options->sample_bytes, tm_clock_monotonic_ns());
    tm_hooks_install();
    if (tm_py.redirected && tm_redirect_problem()[0] != '\0') {
        snprintf(message, message_bytes, "%s", tm_redirect_problem());
        tm_hooks_remove();
        store_release();
        return -EPERM;
    }
    tm_arena_start();
    tm_hooks_start();
    atomic_store(&tm_state_export.tracing, TM_TRACING_ON);
    return 0;
}

void tm_tracer_set_limit(uint32_t frames)
{
    tm_store_stop();
    if (tm_traceback_limit != frames) {
        tm_traceback_limit = frames;
        tm_state_export.traceback_limit = frames;
        tm_traceback_flush();
    }
    tm_store_go();
}

int tm_tracer_set_filters(const struct tm_filter_spec *specs, size_t n_specs)
{
    adopt_if_forked();
    tm_store_stop();
    int error = tm_filter_replace(specs, n_specs);
    tm_hooks_choose_half();
    tm_store_go();
    return error;
}

bool tm_tracer_restart_if_displaced(void)
{
    if (!tm_tracer_is_enabled() || tm_hooks_reachable())
        return false;
    struct tm_restarts after = tm_tracer_restarts();
    after.count++;
    after.lost_blocks += tm_tracer_totals().traced_blocks;
    tm_hooks_restart();
    /* Code objects died unseen as well. */
    tm_store_stop();
    tm_traceback_flush();
    tm_store_go();
    tm_query_clear();
    /* The program's allocations from here on are seen again. */
    set_restarts(after);
    return true;
}

struct tm_restarts tm_tracer_restarts(void)
{
    return (struct tm_restarts){tm_state_export.restarts, tm_state_export.restart_lost_blocks};
}

enum tm_unhook tm_tracer_disable(void)
{
    bool was_enabled = tm_tracer_is_enabled();
    adopt_if_forked();
    tm_hooks_stop();
    atomic_store(&tm_state_export.tracing, TM_TRACING_OFF);
    enum tm_unhook result = tm_hooks_remove();
    if (!tm_arena_stop())
        result = TM_UNHOOK_INERT;
    if (was_enabled)
        store_release();
    else if (atomic_load(&store_users) == 0)
        tm_native_done(); /* what was prepared for a session that did not come about */
    return result;
}

bool tm_tracer_is_enabled(void)
{
    return atomic_load(&tm_live->mode) != 0;
}

uint32_t tm_tracer_traceback_limit(void)
{
    return tm_traceback_limit;
}

const char *tm_tracer_layout_source(void)
{
    return tm_layout_source_name();
}

struct tm_totals tm_tracer_totals(void)
{
    struct tm_state *state = &tm_state_export;
    struct tm_totals totals = {
        .dropped = atomic_load(&state->dropped),
        .own_bytes = atomic_load(&state->own_bytes),
        .own_free_bytes = atomic_load(&state->own_free_bytes),
    };
    if (tm_tracer_is_enabled() && tm_tracer_hold()) {
        int64_t bytes = tm_store_traced_bytes();
        uint64_t blocks = tm_store_live_blocks();
        if (tm_store.sample_mean_bytes != 0)
            blocks /= TM_BLOCK_SCALE;
        int64_t peak = atomic_load(&state->peak_bytes);
        int64_t other_peak = atomic_load(&state->shared_peak_bytes);
        /* Two lanes that grow at the same moment do not see each other's last bytes. */
        peak = other_peak > peak ? other_peak : peak;
        peak = bytes > peak ? bytes : peak;
        totals.traced_bytes = bytes > 0 ? (uint64_t)bytes : 0;
        totals.traced_blocks = blocks;
        totals.peak_bytes = peak > 0 ? (uint64_t)peak : 0;
        tm_tracer_unhold();
    }
    return totals;
}

/* ---- may the payload be unmapped? ---- */

enum { THREADS_MAX = 4096, GRACE_MS = 20 };

struct thread_seen {
    int tid;
    uint64_t run_ns; /* CPU time when first looked at */
};

static ssize_t read_small(const char *path, char *buf, size_t buf_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n_bytes = read(fd, buf, buf_bytes - 1);
    close(fd);
    buf[n_bytes > 0 ? n_bytes : 0] = '\0';
    return n_bytes;
}

/* State letter and CPU time of a thread; false: it is gone. */
static bool thread_look(int tid, char *ret_state, uint64_t *ret_run_ns)
{
    char path[64], text[512];
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
    if (read_small(path, text, sizeof(text)) <= 0)
        return false;
    const char *after_name = strrchr(text, ')');
    if (after_name == NULL || after_name[1] == '\0')
        return false;
    *ret_state = after_name[2];
    *ret_run_ns = tm_clock_thread_ns(tid);
    return true;
}

static int list_threads(struct thread_seen *seen, int max)
{
    int n = 0, own = (int)syscall(SYS_gettid);
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    while (dir != NULL && n < max && (entry = readdir(dir)) != NULL) {
        int tid = 0;
        for (const char *p = entry->d_name; *p >= '0' && *p <= '9'; p++)
            tid = tid * 10 + (*p - '0');
        if (tid > 0 && tid != own)
            seen[n++].tid = tid;
    }
    if (dir != NULL)
        closedir(dir);
    return n;
}

/*
 * The hooks are out. A thread of the raw domain may still have read our function's address and not
 * called it yet, or be between our last counter and the return. Such a thread is runnable: every
 * thread that was seen asleep in the kernel outside our hooks, or that has used CPU time since, has
 * left those few instructions.
 */
bool tm_tracer_quiesce(int timeout_ms)
{
    static struct thread_seen seen[THREADS_MAX];
    uint64_t end_ns = tm_clock_monotonic_ns() + (uint64_t)timeout_ms * TM_NS_PER_MS;
    int n = list_threads(seen, THREADS_MAX);
    if (n == THREADS_MAX)
        return false; /* more threads than can be watched: stay mapped */
    char state;
    uint64_t run_ns;
    for (int i = 0; i < n; i++)
        if (!thread_look(seen[i].tid, &state, &seen[i].run_ns))
            seen[i].tid = 0;
    usleep(GRACE_MS * 1000);
    for (;;) {
        int pending = tm_hooks_inside() != 0 || atomic_load(&store_users) != 0;
        for (int i = 0; i < n; i++) {
            if (seen[i].tid == 0)
                continue;
            if (!thread_look(seen[i].tid, &state, &run_ns) || state != 'R' ||
                run_ns > seen[i].run_ns + 1000)
                seen[i].tid = 0;
            else
                pending++;
        }
        if (pending == 0) {
            if (tm_hooks_are_kept())
                return false;
            tm_filter_replace(NULL, 0);
            tm_hooks_done();
            tm_redirect_done();
            return true;
        }
        if (tm_clock_monotonic_ns() > end_ns)
            return false;
        usleep(2000);
    }
}
