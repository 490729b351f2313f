// SPDX-License-Identifier: MIT
/* tm-attach: parses the command line and calls one verb for each process. */
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "injector/client.h"
#include "injector/errors.h"
#include "injector/family.h"
#include "injector/options.h"
#include "injector/verbs.h"
#include "inspect/error.h"

#define MIN_DESCRIPTORS 16u

static int exit_status_of(const GError *error)
{
    if (error->domain == TM_ATTACH_ERROR)
        return tm_attach_error_exit_status(error->code);
    if (error->domain == TM_CONTROL_ERROR)
        return tm_control_error_exit_status(error->code);
    if (g_error_matches(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_GONE))
        return tm_attach_error_exit_status(TM_ATTACH_ERROR_NO_PROCESS);
    if (g_error_matches(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_PERMISSION))
        return tm_attach_error_exit_status(TM_ATTACH_ERROR_OTHER_USER);
    return 1;
}

int tm_report_error(GError *error)
{
    int status = exit_status_of(error);

    fprintf(stderr, "tm-attach: %s\n", error->message);
    g_error_free(error);
    return status;
}

static bool run(pid_t pid, const struct tm_attach_options *options, GError **error)
{
    switch (options->verb) {
    case TM_VERB_STATUS:
        return tm_verb_status(pid, options, stdout, error);
    case TM_VERB_SNAPSHOT:
        return tm_verb_snapshot(pid, options, stdout, error);
    case TM_VERB_DETACH:
        return tm_verb_detach(pid, options, stdout, error);
    case TM_VERB_CHECK:
        return tm_verb_check(pid, options, stdout, error);
    default:
        return tm_verb_attach(pid, options, stdout, error);
    }
}

/* Below the PID that was named there may be shells and helpers, and what has just ended; for the
 * other verbs, what was never attached. */
static bool is_no_matter_for_child(const GError *error)
{
    return g_error_matches(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_NOT_PYTHON) ||
           g_error_matches(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_NO_PROCESS) ||
           g_error_matches(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_ZOMBIE) ||
           g_error_matches(error, TM_CONTROL_ERROR, TM_CONTROL_ERROR_NOT_ATTACHED);
}

static int run_family(pid_t pid, const struct tm_attach_options *options)
{
    g_autoptr(GArray) family = tm_family_read(pid);
    GError *none = NULL;
    int first = 0, done = 0;

    for (guint i = 0; i < family->len; i++) {
        GError *error = NULL;
        if (run(g_array_index(family, pid_t, i), options, &error)) {
            done++;
        } else if (is_no_matter_for_child(error)) {
            if (!none)
                none = g_steal_pointer(&error);
            g_clear_error(&error);
        } else {
            int status = tm_report_error(error);
            first = first ? first : status;
        }
    }
    if (none && !done && !first)
        return tm_report_error(none);
    g_clear_error(&none);
    return first;
}

static int run_all(const struct tm_attach_options *options)
{
    int first = 0;

    for (guint i = 0; i < options->pids->len; i++) {
        pid_t pid = g_array_index(options->pids, pid_t, i);
        GError *error = NULL;
        int status = 0;
        if (options->children)
            status = run_family(pid, options);
        else if (!run(pid, options, &error))
            status = tm_report_error(error);
        fflush(stdout);
        first = first ? first : status;
    }
    return first;
}

/* A descriptor that we open must not be standard output to what is printed here. A program that is
 * launched finds them closed, as they were given. */
static void fill_standard_streams(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    while (fd >= 0 && fd <= STDERR_FILENO)
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
}

/* With fewer, every file that cannot be opened would look as if the process had gone. */
static bool have_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= MIN_DESCRIPTORS)
        return true;
    fprintf(stderr, "tm-attach: %lu open files are too few (ulimit -n): %u are needed\n",
            (unsigned long)limit.rlim_cur, MIN_DESCRIPTORS);
    return false;
}

/* What was said last may not have come through. */
static int end_output(int status)
{
    if (!fflush(stdout) && !ferror(stdout))
        return status;
    fprintf(stderr, "tm-attach: cannot write to standard output\n");
    return status ? status : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct tm_attach_options options;
    GError *error = NULL;
    int status;

    fill_standard_streams();
    /* Names of files only: numbers and messages stay as scripts expect them. */
    setlocale(LC_CTYPE, "");
    if (!tm_attach_options_parse(&options, argc, argv, &error)) {
        fprintf(stderr, "tm-attach: %s\n", error->message);
        g_error_free(error);
        tm_attach_options_done(&options);
        return 2;
    }
    if (options.verb == TM_VERB_VERSION) {
        puts("tm-attach " TM_VERSION);
        status = 0;
    } else if (!have_descriptors()) {
        status = tm_attach_error_exit_status(TM_ATTACH_ERROR_RESOURCE);
    } else if (options.verb == TM_VERB_LAUNCH) {
        status = tm_verb_launch(&options);
    } else {
        status = run_all(&options);
    }
    tm_attach_options_done(&options);
    return end_output(status);
}
