// SPDX-License-Identifier: MIT
/* The way in, from the request to the running payload: looks, starts the worker, watches the boot
 * block. Runs in tm-attach. */
#include "injector/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "injector/arch.h"
#include "injector/inject_boot.h"
#include "injector/inject_look.h"
#include "injector/inject_step.h"
#include "injector/inject_stub.h"
#include "injector/inject_worker.h"
#include "inspect/layout_dwarf.h"

#define NS_PER_MS 1000000ull
#define DEFAULT_SEARCH_MS 1000u
#define DEFAULT_BOOT_MS 5000u
#define DEFAULT_GIL_MS 10000u
/* Virtual only. A finalizer of the program may come to run on the agent's thread whenever that
 * makes Python objects: it gets as much stack as a recursion of 1000 frames takes. */
#define THREAD_STACK_BYTES (1024u * 1024u)
#define PAYLOAD_WAIT_MS 5000u
#define ERROR_WAIT_MS 2000u
#define MFD_CLOEXEC_FLAG 1u
#define MFD_EXEC_FLAG 0x10u

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value != 0 ? value : fallback;
}

/* One tm-attach at a time: a lock on the target's folder in /proc, which goes with its holder.
 * Where it cannot be taken for another reason, the payload itself still refuses a second one. */
static int lock_target(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d", (int)pid);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(fd);
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_BUSY,
                    "another tm-attach is attaching to process %d at this moment; wait for it",
                    (int)pid);
        return -1;
    }
    return fd >= 0 ? fd : -2;
}

/* "thread-self", because "self" has no descriptors where the main thread has ended. glibc takes a
 * path that it has loaded before for the same library without opening it, so each load needs a path
 * of its own: a number, written in dots and slashes. */
static void make_fd_path(char *to, size_t to_bytes, uint32_t number)
{
    GString *path = g_string_new("/proc/thread-self/fd/");
    for (int i = 0; i < 16; i++)
        g_string_append(path, (number >> i & 1) != 0 ? ".//" : "./");
    g_strlcpy(to, path->str, to_bytes);
    g_string_free(path, TRUE);
}

static void fill_data(const struct tm_inject_request *request, const struct tm_inject_libc *libc,
                      const struct tm_layout *layout, struct tm_stub_data *ret)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint32_t number = (uint32_t)now.tv_nsec ^ (uint32_t)getpid() << 8;
    *ret = (struct tm_stub_data){
        .boot = {.magic = TM_BOOT_MAGIC,
                 .version = TM_BOOT_VERSION,
                 .size_bytes = sizeof(struct tm_boot),
                 .control_fd = -1,
                 .gil_timeout_ms = or_default(request->gil_ms, DEFAULT_GIL_MS),
                 .layout = *layout},
        .restorer = libc->restorer_addr,
        .fn_munmap = libc->munmap_addr,
        .create_error = -1,
        .fn_pthread_create = libc->pthread_create_addr,
        .fn_attr_init = libc->attr_init_addr,
        .fn_attr_setdetachstate = libc->attr_setdetachstate_addr,
        .fn_attr_setstacksize = libc->attr_setstacksize_addr,
        .fn_dlopen = libc->dlopen_addr,
        .fn_dlsym = libc->dlsym_addr,
        .fn_dlclose = libc->dlclose_addr,
        .fn_dlerror = libc->dlerror_addr,
        .fn_errno_location = libc->errno_location_addr,
        .forks = {.fn_register = libc->register_atfork_addr, .fn_finalize = libc->finalize_addr},
        .stack_bytes = THREAD_STACK_BYTES,
        .signal_mask = libc->thread_signal_mask,
        .memfd_flags = MFD_CLOEXEC_FLAG | MFD_EXEC_FLAG,
        .dlopen_flags = libc->dlopen_flags,
        .payload_wait_ms = PAYLOAD_WAIT_MS,
        .error_wait_ms = ERROR_WAIT_MS,
        .payload_fd = -1,
    };
    g_strlcpy(ret->start_symbol, TM_START_SYMBOL, sizeof(ret->start_symbol));
    g_snprintf(ret->memfd_name, sizeof(ret->memfd_name), "%s%08x", TM_MEMFD_PREFIX, number);
    make_fd_path(ret->fd_path, sizeof(ret->fd_path), number);
}

/* Where the program may have no GIL yet; otherwise all stays 0. */
static void find_gil(tm_look *look, struct tm_stub_gil *ret)
{
    struct tm_stub_gil gil = {0};
    const struct {
        const char *name;
        uint64_t *ret;
    } symbols[] = {
        {"PyEval_ThreadsInitialized", &gil.fn_is_made},
        {"PyEval_InitThreads", &gil.fn_make},
        {"PyGILState_GetThisThreadState", &gil.fn_this_state},
        {"PyEval_RestoreThread", &gil.fn_restore},
        {"PyEval_SaveThread", &gil.fn_save},
        {"_PyThreadState_Current", &gil.current_state_addr},
    };
    if (!tm_look_may_lack_gil(look))
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(symbols); i++) {
        if (!tm_module_export_addr(look->modules, look->python.module, symbols[i].name,
                                   symbols[i].ret))
            return;
    }
    *ret = gil;
}

static void set_no_safe_point(const struct tm_look *look, const struct tm_work_report *report,
                              GError **error)
{
    enum tm_verdict worst = TM_VERDICT_LIBC;
    for (int i = TM_VERDICT_LIBC; i < TM_VERDICTS; i++) {
        if (report->verdicts[i] > report->verdicts[worst])
            worst = (enum tm_verdict)i;
    }
    if (report->stops == 0)
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_NO_SAFE_POINT,
                    "no thread of process %d could be stopped: all are in uninterruptible sleep or "
                    "ending; try again later",
                    (int)look->process.pid);
    else
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_NO_SAFE_POINT,
                    "process %d came to no point at which code can be loaded safely, in %u stops: "
                    "as a rule it was %s; try again",
                    (int)look->process.pid, report->stops, tm_verdict_text(worst));
}

static void set_refused(const struct tm_look *look, const struct tm_work_report *report,
                        GError **error)
{
    /* Whoever traces one thread as a rule traces them all, the leader included. */
    struct tm_process thread;
    if (tm_process_read(report->tid, &thread, NULL) && thread.tracer_pid != 0) {
        g_autofree char *tracer = tm_look_describe(thread.tracer_pid);
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_TRACED,
                    "process %d is traced by %s already; end that one first",
                    (int)look->process.pid, tracer);
        return;
    }
    tm_look_set_permission_error(&look->process, error);
}

static void set_work_error(const struct tm_look *look, const struct tm_work_report *report,
                           GError **error)
{
    int pid = (int)look->process.pid;
    switch (report->result) {
    case TM_WORK_DONE:
        break;
    case TM_WORK_NO_SAFE_POINT:
    case TM_WORK_STUCK_THREAD:
        set_no_safe_point(look, report, error);
        break;
    case TM_WORK_REFUSED:
        set_refused(look, report, error);
        break;
    case TM_WORK_RESOURCE:
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_RESOURCE,
                    "process %d could not get a thread or memory for it: %s; see its limits in "
                    "/proc/%d/limits and those of its control group",
                    pid, g_strerror(report->error_number), pid);
        break;
    case TM_WORK_GONE:
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_DIED,
                    "process %d ended or called exec meanwhile", pid);
        break;
    case TM_WORK_STUCK_CALL:
        g_set_error(error, TM_ATTACH_ERROR,
                    look->process.state == 'T' ? TM_ATTACH_ERROR_STOPPED : TM_ATTACH_ERROR_TIMEOUT,
                    "the borrowed thread %d of process %d did not come back from pthread_create in "
                    "time%s; it goes on by itself",
                    (int)report->tid, pid,
                    look->process.state == 'T' ? " (the process is stopped: kill -CONT it)" : "");
        break;
    case TM_WORK_CRASHED:
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_INTERNAL,
                    "the borrowed thread %d of process %d got signal %d inside pthread_create and "
                    "was put back where it was; please report this",
                    (int)report->tid, pid, report->error_number);
        break;
    case TM_WORK_SECCOMP:
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_SECCOMP,
                    "a seccomp filter of process %d would end it at system call %d, which an "
                    "attach needs; allow that call in the filter",
                    pid, report->error_number);
        break;
    case TM_WORK_UNFINISHED:
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_INTERNAL,
                    "the worker that was attaching to process %d was killed; try again", pid);
        break;
    }
}

static void copy_python(const tm_look *look, struct tm_inject_result *ret)
{
    g_strlcpy(ret->python_version, look->python.version, sizeof(ret->python_version));
    ret->python_hex = look->python.version_hex;
}

static void read_layout(const struct tm_inject_request *request, tm_look *look,
                        struct tm_layout *ret)
{
    /* 3.13 and later describe themselves; the payload has a table for the rest. */
    uint32_t minor = look->python.version_hex >> 16;
    bool known = minor == 0x0207 || (minor >= 0x0303 && minor <= 0x030e);
    *ret = (struct tm_layout){.source = TM_LAYOUT_NONE, .py_version = minor};
    if (look->python.kind == TM_PYTHON_CPYTHON && request->dwarf != TM_INJECT_DWARF_NEVER &&
        (request->dwarf == TM_INJECT_DWARF_ALWAYS || !known))
        tm_layout_from_dwarf(look->modules, &look->python, ret, NULL);
}

/* Before PEP 475 (3.5), a program of its own makes an error of EINTR. */
static enum tm_arch_restart restart_of(const tm_look *look)
{
    return look->python.kind == TM_PYTHON_CPYTHON && look->python.version_hex < 0x03050000
               ? TM_ARCH_RESTART_ALL
               : TM_ARCH_RESTART_ENDLESS;
}

static bool work_and_boot(const struct tm_inject_request *request, tm_look *look,
                          struct tm_inject_result *ret, GError **error)
{
    static struct tm_stub_data data;
    struct tm_layout layout;
    read_layout(request, look, &layout);
    fill_data(request, &look->libc, &layout, &data);
    find_gil(look, &data.gil);
    g_autoptr(tm_unwinder) unwinder = tm_unwinder_new(look->modules, &look->libc);
    struct tm_work work = {
        .pid = request->pid,
        .start_ticks = look->process.start_ticks,
        .modules = look->modules,
        .libc = &look->libc,
        .unwinder = unwinder,
        .data = &data,
        .keep_syscall = look->process.seccomp != 0,
        .leader_first = data.gil.fn_is_made != 0,
        .restart = restart_of(look),
        .step_out_only = request->search == TM_INJECT_SEARCH_STEP_OUT,
        .search_ns = or_default(request->search_ms, DEFAULT_SEARCH_MS) * NS_PER_MS,
    };
    struct tm_work_report report = {0};
    bool borrowed = request->held != NULL && !work.keep_syscall &&
                    tm_inject_work_held(&work, request->held, &report);
    if (!borrowed && request->looked != NULL)
        request->looked(request->hook_arg);
    if (!borrowed && !tm_inject_work(&work, &report, error))
        return false;
    ret->worst_stop_ns = report.worst_stop_ns;
    ret->worst_wait_ns = report.worst_wait_ns;
    ret->total_stop_ns = report.total_stop_ns;
    ret->stops = report.stops;
    ret->tid = report.tid;
    tm_step(TM_STEP_WORKED, request->pid);
    struct tm_boot_watch watch = {
        .pid = request->pid,
        .living_pid = look->modules->pid,
        .block_addr = report.block_addr,
        .payload = request->payload,
        .boot_ns = or_default(request->boot_ms, DEFAULT_BOOT_MS) * NS_PER_MS,
        .gil_ns = or_default(request->gil_ms, DEFAULT_GIL_MS) * NS_PER_MS,
        .booting = request->booting,
        .booting_arg = request->hook_arg,
    };
    if (report.result != TM_WORK_DONE) {
        if (report.result == TM_WORK_STUCK_CALL)
            tm_inject_abandon(&watch);
        set_work_error(look, &report, error);
        return false;
    }
    struct tm_boot boot;
    if (!tm_inject_boot(&watch, &boot, error))
        return false;
    ret->control_fd = boot.control_fd;
    ret->state_addr = boot.state_addr;
    ret->boot_addr = report.block_addr + TM_STUB_PAGE_BYTES;
    return true;
}

bool tm_inject(const struct tm_inject_request *request, struct tm_inject_result *ret,
               GError **error)
{
    *ret = (struct tm_inject_result){.control_fd = -1};
    g_autoptr(tm_look) look = tm_look_new(request->pid, request->want, error);
    if (look == NULL)
        return false;
    copy_python(look, ret);
    int lock_fd = lock_target(request->pid, error);
    if (lock_fd == -1)
        return false;
    tm_step(TM_STEP_LOOKED, request->pid);
    bool done = work_and_boot(request, look, ret, error);
    if (lock_fd >= 0)
        close(lock_fd);
    return done;
}

bool tm_inject_check(const struct tm_inject_request *request, struct tm_inject_result *ret,
                     GError **error)
{
    g_autoptr(tm_look) look = tm_look_new(request->pid, request->want, error);
    if (look == NULL)
        return false;
    *ret = (struct tm_inject_result){.control_fd = -1};
    copy_python(look, ret);
    return true;
}

static bool check_payload(GBytes *bytes, const char **ret_reason)
{
    g_autoptr(tm_elf) elf = tm_elf_open_image(bytes, NULL);
    struct tm_symbol symbol;
    *ret_reason = "it is not an ELF file";
    if (elf == NULL)
        return false;
    *ret_reason = "it was built for another machine";
    if (elf->elf_class != ELFCLASS64 || elf->machine != TM_ARCH_MACHINE)
        return false;
    *ret_reason = "it is not a shared object";
    if (elf->type != ET_DYN || !elf->has_dynamic)
        return false;
    *ret_reason = "it does not export " TM_START_SYMBOL;
    return tm_elf_find_export(elf, TM_START_SYMBOL, &symbol);
}

GBytes *tm_inject_read_payload(const char *path, GError **error)
{
    char *contents = NULL;
    gsize n_bytes = 0;
    g_autoptr(GError) cause = NULL;
    if (!g_file_get_contents(path, &contents, &n_bytes, &cause)) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_PAYLOAD,
                    "the payload cannot be read: %s; install it again", cause->message);
        return NULL;
    }
    const char *reason = NULL;
    g_autoptr(GBytes) bytes = g_bytes_new_take(contents, n_bytes);
    if (!check_payload(bytes, &reason)) {
        g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_PAYLOAD,
                    "the payload %s cannot be used: %s; install it again", path, reason);
        return NULL;
    }
    return g_steal_pointer(&bytes);
}
