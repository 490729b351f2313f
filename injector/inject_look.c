// SPDX-License-Identifier: MIT
/* Looking before anything is touched. Reads /proc and files; stops nothing. */
#include "injector/inject_look.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "injector/arch.h"
#include "injector/errors.h"
#include "inspect/error.h"
#include "inspect/memory.h"
#include "inspect/payload.h"

#define CAP_SYS_PTRACE_BIT 19
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

#define REFUSE(code, ...) g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_##code, __VA_ARGS__)

bool tm_look_may_lack_gil(const tm_look *look)
{
    return look->python.kind == TM_PYTHON_CPYTHON && look->python.version_hex < 0x03070000;
}

char *tm_look_describe(pid_t pid)
{
    struct tm_process process;
    if (!tm_process_read(pid, &process, NULL))
        return g_strdup_printf("PID %d", (int)pid);
    return g_strdup_printf("%s (PID %d)", process.name, (int)pid);
}

static bool have_ptrace_capability(void)
{
    struct tm_process self;
    return tm_process_read(getpid(), &self, NULL) &&
           (self.cap_effective >> CAP_SYS_PTRACE_BIT & 1) != 0;
}

static bool is_same_user(const struct tm_process *process)
{
    uint32_t uid = getuid(), gid = getgid();
    for (int i = 0; i < 3; i++) {
        if (process->uids[i] != uid || process->gids[i] != gid)
            return false;
    }
    return true;
}

/* The order is that of __ptrace_may_access in the kernel: identity, dumpable, then Yama. */
void tm_look_set_permission_error(const struct tm_process *process, GError **error)
{
    int pid = (int)process->pid;
    bool same_user_ns = tm_process_same_namespace(process->pid, "user");
    if (have_ptrace_capability()) {
        REFUSE(CAPABILITY,
               "the kernel does not let this user trace process %d although CAP_SYS_PTRACE is "
               "there: %s",
               pid,
               same_user_ns ? "a security module (SELinux, AppArmor) denies it; see its log"
                            : "it is in another user namespace; run tm-attach on the host");
    } else if (geteuid() == 0) {
        REFUSE(CAPABILITY,
               "process %d cannot be traced: root here has no CAP_SYS_PTRACE; start the container "
               "with --cap-add=SYS_PTRACE, or run tm-attach on the host",
               pid);
    } else if (!is_same_user(process)) {
        REFUSE(OTHER_USER,
               "process %d belongs to another user (UID %u); run tm-attach as that user or as root",
               pid, process->uids[0]);
    } else if (tm_process_yama_scope() > 0) {
        REFUSE(YAMA,
               "Yama forbids tracing process %d (kernel.yama.ptrace_scope is %d); run tm-attach as "
               "root, or set it to 0 with sysctl",
               pid, tm_process_yama_scope());
    } else {
        REFUSE(NOT_DUMPABLE,
               "process %d has made itself non-dumpable (set-UID, capabilities on its file, or "
               "prctl); run tm-attach as root",
               pid);
    }
}

/* A process that is there but not in /proc. */
static bool is_hidden(pid_t pid, GError **error)
{
    if (pid <= 0 || (kill(pid, 0) != 0 && errno != EPERM))
        return false;
    if (access("/proc/self/stat", R_OK) != 0)
        REFUSE(
            CAPABILITY,
            "process %d cannot be looked at: /proc is not mounted here; mount -t proc proc /proc",
            (int)pid);
    else if (kill(pid, 0) != 0)
        REFUSE(OTHER_USER,
               "process %d belongs to another user, and /proc hides it (hidepid); run tm-attach as "
               "that user or as root",
               (int)pid);
    else
        REFUSE(CAPABILITY,
               "/proc does not show process %d: it is that of another PID namespace; run tm-attach "
               "in the process' own, or on the host",
               (int)pid);
    return true;
}

static bool check_identity(pid_t pid, struct tm_process *process, GError **error)
{
    if (pid == getpid()) {
        REFUSE(SELF, "process %d is tm-attach itself; give the PID of a Python process", (int)pid);
        return false;
    }
    if (pid <= 0 || !tm_process_read(pid, process, NULL)) {
        if (is_hidden(pid, error))
            return false;
        REFUSE(NO_PROCESS, "there is no process %d; see ps -e for those that are", (int)pid);
        return false;
    }
    if (process->tgid != pid) {
        REFUSE(THREAD, "%d is a thread of process %d; give the process: tm-attach %d", (int)pid,
               (int)process->tgid, (int)process->tgid);
        return false;
    }
    if (process->kernel_thread) {
        REFUSE(KERNEL, "%d (%s) is a kernel thread; give the PID of a Python process", (int)pid,
               process->name);
        return false;
    }
    return true;
}

/* The channel's descriptor can be copied only by way of a living thread: since Linux 6.9. */
static bool can_copy_descriptors(pid_t tid)
{
    int fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
    if (fd >= 0)
        close(fd);
    return fd >= 0 || errno != EINVAL;
}

/* Of a process whose main thread has ended while others live on, the leader is a zombie, too. */
static bool check_alive(const struct tm_process *process, GError **error)
{
    if (!tm_process_has_ended(process)) {
        pid_t living = tm_process_living(process->pid);
        if (living == process->pid || can_copy_descriptors(living))
            return true;
        REFUSE(LEADER_GONE,
               "the main thread of process %d has ended while %d others live on; tracing such a "
               "process needs Linux 6.9 or newer",
               (int)process->pid, process->threads - 1);
        return false;
    }
    REFUSE(ZOMBIE, "process %d has ended (zombie); its parent has not yet waited for it",
           (int)process->pid);
    return false;
}

static bool check_untraced(const struct tm_process *process, GError **error)
{
    if (process->tracer_pid != 0 && process->tracer_pid != getpid()) {
        g_autofree char *tracer = tm_look_describe(process->tracer_pid);
        /* Its worker, before we came to ask for the lock. */
        if (g_str_has_prefix(tracer, "tm-attach ")) {
            REFUSE(BUSY, "another tm-attach is attaching to process %d at this moment; wait for it",
                   (int)process->pid);
            return false;
        }
        REFUSE(TRACED, "process %d is traced by %s already; end that one first", (int)process->pid,
               tracer);
        return false;
    }
    if (process->seccomp == 1) {
        REFUSE(SECCOMP, "process %d is in strict seccomp mode: it could not even map memory",
               (int)process->pid);
        return false;
    }
    return true;
}

/* Whether the kernel would let us: reading the maps asks the same question as PTRACE_SEIZE but for
 * Yama, which sees only real attaches. */
static bool check_permission(const struct tm_process *process, GError **error)
{
    pid_t living = tm_process_living(process->pid);
    g_autofree char *path = g_strdup_printf("/proc/%d/mem", (int)living);
    if (access(path, R_OK | W_OK) == 0) {
        int fd = tm_memory_open(living);
        if (fd >= 0) {
            close(fd);
            return true;
        }
        if (fd == -ESRCH || fd == -ENOENT) {
            REFUSE(DIED, "process %d ended meanwhile", (int)process->pid);
            return false;
        }
    }
    tm_look_set_permission_error(process, error);
    return false;
}

static bool check_program(tm_look *self, GError **error)
{
    int pid = (int)self->process.pid;
    struct tm_module *exe = tm_modules_find_exe(self->modules);
    if (exe == NULL || !tm_module_open(self->modules, exe, error)) {
        g_clear_error(error);
        REFUSE(DIED,
               "the executable of process %d cannot be read: it ended meanwhile, or its file "
               "cannot be opened by this user",
               pid);
        return false;
    }
    if (exe->elf->elf_class != ELFCLASS64) {
        REFUSE(CLASS, "process %d is a 32-bit program; only 64-bit ones can be traced", pid);
        return false;
    }
    if (exe->elf->machine != TM_ARCH_MACHINE) {
        REFUSE(MACHINE, "process %d is a program for another machine (ELF machine %u)", pid,
               exe->elf->machine);
        return false;
    }
    if (!exe->elf->has_interp && !exe->elf->has_dynamic) {
        REFUSE(STATIC,
               "process %d (%s) is statically linked, so that nothing can be loaded into "
               "it; use a dynamically linked Python",
               pid, exe->path);
        return false;
    }
    return true;
}

/*
 * A 2.7 without the allocator API: the payload redirects PyObject_Malloc and its kin. Calls of an
 * exported function of a shared library go through its entry. Inside an executable the compiler may
 * have put the function's first lines into its callers (and does, with link-time optimization), and
 * what went past the entry would be wrong numbers.
 */
static bool can_be_redirected(const tm_look *self)
{
    return self->python.version_hex >> 16 == 0x0207 && self->python.has_object_functions &&
           self->python.module != tm_modules_find_exe(self->modules);
}

static bool check_python(const tm_look *self, GError **error)
{
    int pid = (int)self->process.pid;
    const struct tm_python *python = &self->python;
    unsigned minor = python->version_hex >> 16;
    switch (python->kind) {
    case TM_PYTHON_NONE:
        REFUSE(NOT_PYTHON, "process %d (%s) is not Python: no CPython is mapped in it", pid,
               self->process.name);
        return false;
    case TM_PYTHON_PYPY:
        REFUSE(PYPY,
               "process %d runs PyPy, whose memory is not CPython's; only CPython can be "
               "traced",
               pid);
        return false;
    case TM_PYTHON_CPYTHON:
        break;
    }
    if (python->has_allocator_api || can_be_redirected(self))
        return true;
    REFUSE(UNPATCHED,
           "process %d runs CPython %s%s without the allocator API of PEP 445; build it with "
           "patches/%s/pep445.patch",
           pid, python->version[0] != '\0' ? python->version : "2.7",
           minor == 0x0207 ? " inside its executable," : "", minor == 0x0303 ? "3.3" : "2.7");
    return false;
}

/* The payload's descriptor is opened by its name in /proc. The link leads nowhere for us. */
static bool check_own_proc(const tm_look *self, GError **error)
{
    struct stat st;
    int pid = (int)self->process.pid;
    g_autofree char *path =
        g_strdup_printf("/proc/%d/root%s", (int)self->modules->pid, "/proc/thread-self");
    if (lstat(path, &st) == 0 || errno != ENOENT)
        return true;
    REFUSE(
        DLOPEN,
        "process %d sees no /proc, by way of which the payload is loaded (it is in a chroot or in "
        "a mount namespace without one); mount it there: mount -t proc proc /proc",
        pid);
    return false;
}

static bool check_unattached(const tm_look *self, GError **error)
{
    struct tm_payload payload;
    if (!tm_inspect_find_payload(self->process.pid, self->modules, &payload, NULL))
        return true;
    /* What a fork inherited is dead code there; a payload of its own may come in beside it. */
    if (!payload.state_valid || payload.inherited || payload.state.agent_alive == 0)
        return true;
    REFUSE(ATTACHED,
           "process %d is being traced already; tm-attach --status %d, --snapshot or --detach talk "
           "to the tracer in it",
           (int)self->process.pid, (int)self->process.pid);
    return false;
}

/* An end in the middle of the look: memory and root are taken away first, and what was found then
 * says nothing. */
static bool has_ended_meanwhile(pid_t pid)
{
    struct tm_process process;
    if (!tm_process_read(pid, &process, NULL) || tm_process_has_ended(&process))
        return true;
    g_autoptr(GError) cause = NULL;
    g_autoptr(tm_maps) maps = tm_maps_read(tm_process_living(pid), &cause);
    return maps != NULL ? maps->count == 0
                        : g_error_matches(cause, TM_INSPECT_ERROR, TM_INSPECT_ERROR_GONE);
}

static bool look_inside(tm_look *self, enum tm_inject_want want, GError **error)
{
    int pid = (int)self->process.pid;
    g_autoptr(GError) cause = NULL;
    self->modules = tm_modules_read(self->process.pid, &cause);
    if (self->modules == NULL) {
        if (cause->code == TM_INSPECT_ERROR_PERMISSION)
            tm_look_set_permission_error(&self->process, error);
        else
            REFUSE(DIED, "process %d ended meanwhile: %s", pid, cause->message);
        return false;
    }
    if (!check_program(self, error))
        return false;
    tm_python_find(self->modules, &self->python);
    if (want == TM_INJECT_WANT_PYTHON && !check_python(self, error))
        return false;
    return tm_inject_libc_find(self->modules, &self->libc, error) && check_own_proc(self, error) &&
           check_unattached(self, error);
}

tm_look *tm_look_new(pid_t pid, enum tm_inject_want want, GError **error)
{
    g_autoptr(tm_look) self = g_new0(tm_look, 1);
    g_autoptr(GError) reason = NULL;
    if (!check_identity(pid, &self->process, error) || !check_alive(&self->process, error))
        return NULL;
    if (check_untraced(&self->process, &reason) && check_permission(&self->process, &reason) &&
        look_inside(self, want, &reason))
        return g_steal_pointer(&self);
    if (has_ended_meanwhile(pid))
        REFUSE(DIED, "process %d ended meanwhile", (int)pid);
    else
        g_propagate_error(error, g_steal_pointer(&reason));
    return NULL;
}

void tm_look_free(tm_look *look)
{
    if (look == NULL)
        return;
    tm_modules_free(look->modules);
    g_free(look);
}
