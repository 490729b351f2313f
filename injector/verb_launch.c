// SPDX-License-Identifier: MIT
/*
 * "tm-attach -- python3 app.py": starts the program, holds it while it is
 * looked at, attaches before its interpreter is up, then stands aside: signals and the exit status
 * pass through, the standard streams are the program's own. What tm-attach has to say goes to
 * standard error.
 */
#include "injector/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "injector/errors.h"
#include "injector/hold.h"

#define UP_TIMEOUT_US 10000000
#define LOOK_US 2000
#define EXEC_FAILED 127

static volatile sig_atomic_t child_pid;

/* What a terminal sends reaches the program by itself: it is in the same process group. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    int saved = errno;

    (void)context;
    if (info->si_code != SI_KERNEL && child_pid > 0)
        kill((pid_t)child_pid, number);
    errno = saved;
}

static void pass_signals_on(void)
{
    static const int numbers[] = {SIGINT,  SIGTERM, SIGHUP,   SIGQUIT, SIGUSR1,
                                  SIGUSR2, SIGALRM, SIGWINCH, SIGCONT};
    struct sigaction action = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_RESTART};

    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        struct sigaction old;
        /* What we were started with as ignored (nohup), the program ignores, too. */
        if (!sigaction(numbers[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

/* A set-UID program would run without its right under a tracer. */
static bool may_be_held(const char *command)
{
    struct stat st;
    g_autofree char *path = g_find_program_in_path(command);

    return path && !stat(path, &st) && !(st.st_mode & (S_ISUID | S_ISGID));
}

/* Forks and execs; the pipe tells an exec that failed, another lets the child go on to its exec.
 * Returns the child, or -1 with *ret_errno. */
static pid_t start(char **command, tm_hold **ret_hold, int *ret_errno)
{
    int ends[2], go[2], number = 0;

    if (pipe2(ends, O_CLOEXEC)) {
        *ret_errno = errno;
        return -1;
    }
    if (pipe2(go, O_CLOEXEC)) {
        *ret_errno = errno;
        close(ends[0]);
        close(ends[1]);
        return -1;
    }
    pid_t child = fork();
    if (child == 0) {
        close(go[1]);
        if (read(go[0], &number, 1) < 0)
            number = 0;
        execvp(command[0], command);
        number = errno;
        if (write(ends[1], &number, sizeof(number)) < 0)
            _exit(EXEC_FAILED);
        _exit(EXEC_FAILED);
    }
    number = errno;
    close(ends[1]);
    close(go[0]);
    if (child > 0 && may_be_held(command[0]))
        *ret_hold = tm_hold_new(child);
    close(go[1]);
    if (child < 0) {
        close(ends[0]);
        *ret_errno = number;
        return -1;
    }
    if (read(ends[0], &number, sizeof(number)) == sizeof(number)) {
        waitpid(child, NULL, 0);
        child = -1;
    }
    close(ends[0]);
    *ret_errno = number;
    return child;
}

/* Failures that pass while a program starts: it is still the dynamic linker's, or a shell that
 * will exec Python, or its threads are not where they can be borrowed. */
static bool is_early(const GError *error)
{
    static const int codes[] = {TM_ATTACH_ERROR_NOT_PYTHON, TM_ATTACH_ERROR_LIBC,
                                TM_ATTACH_ERROR_STATIC,     TM_ATTACH_ERROR_DIED,
                                TM_ATTACH_ERROR_TIMEOUT,    TM_ATTACH_ERROR_NO_SAFE_POINT,
                                TM_ATTACH_ERROR_BUSY};

    for (size_t i = 0; i < G_N_ELEMENTS(codes); i++) {
        if (g_error_matches(error, TM_ATTACH_ERROR, codes[i]))
            return true;
    }
    return false;
}

static bool has_ended(pid_t child)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == child;
}

static void attach(pid_t child, const struct tm_attach_options *given, tm_hold *hold)
{
    struct tm_attach_options options = *given;
    gint64 deadline_us = g_get_monotonic_time() + UP_TIMEOUT_US;
    GError *error = NULL;
    int status;

    if (hold && tm_hold_at_python(hold, deadline_us))
        options.hold = hold;
    else if (hold && tm_hold_has_ended(hold, &status))
        return;
    while (!tm_verb_attach(child, &options, stderr, &error)) {
        tm_hold_release(hold);
        if (hold && tm_hold_has_ended(hold, &status)) {
            g_clear_error(&error);
            return;
        }
        if (has_ended(child)) {
            g_clear_error(&error);
            return;
        }
        if (!is_early(error) || g_get_monotonic_time() >= deadline_us) {
            tm_report_error(error);
            fprintf(stderr, "tm-attach: %s goes on untraced\n", options.command[0]);
            return;
        }
        g_clear_error(&error);
        g_usleep(LOOK_US);
    }
    tm_hold_release(hold);
}

/* Dies of the signal that the program died of, without a core file of its own. */
static int die_of(int number)
{
    struct rlimit none = {0, 0};
    sigset_t set;

    setrlimit(RLIMIT_CORE, &none);
    signal(number, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(number);
    return 128 + number;
}

int tm_verb_launch(const struct tm_attach_options *options)
{
    int number, status;
    g_autoptr(tm_hold) hold = NULL;

    fflush(NULL);
    child_pid = start(options->command, &hold, &number);
    if (child_pid < 0) {
        fprintf(stderr, "tm-attach: %s: %s\n", options->command[0], g_strerror(number));
        return number == ENOENT ? EXEC_FAILED : EXEC_FAILED - 1;
    }
    pass_signals_on();
    attach((pid_t)child_pid, options, hold);
    while (!(hold && tm_hold_has_ended(hold, &status)) &&
           waitpid((pid_t)child_pid, &status, 0) < 0) {
        if (errno != EINTR)
            return 1;
    }
    return WIFSIGNALED(status) ? die_of(WTERMSIG(status)) : WEXITSTATUS(status);
}
