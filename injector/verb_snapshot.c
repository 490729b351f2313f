// SPDX-License-Identifier: MIT
#include <string.h>

#include "injector/client.h"
#include "injector/directory.h"
#include "injector/verbs.h"
#include "inspect/extract.h"

/* Millions of traces onto a slow disk. */
#define SNAPSHOT_TIMEOUT_MS 600000

#define DEFAULT_PASSIVE_NAME "tracemalloc-$pid-passive-$counter.tms"

static char *replace(char *text, const char *variable, const char *value)
{
    g_auto(GStrv) parts = g_strsplit(text, variable, -1);
    g_free(text);
    return g_strjoinv(value, parts);
}

/* The agent counts the session's snapshots and is not asked here: the first number that is free. */
static char *expand_name(const char *template, pid_t pid)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    g_autofree char *timestamp = g_date_time_format(now, "%Y-%m-%d-%H:%M:%S");
    g_autofree char *number = g_strdup_printf("%d", (int)pid);
    char *name = replace(g_strdup(template), "$pid", number);
    name = replace(name, "$timestamp", timestamp);
    if (strstr(name, "$counter") == NULL)
        return name;
    for (unsigned counter = 1;; counter++) {
        g_autofree char *text = g_strdup_printf("%04u", counter);
        char *candidate = replace(g_strdup(name), "$counter", text);
        if (!g_file_test(candidate, G_FILE_TEST_EXISTS)) {
            g_free(name);
            return candidate;
        }
        g_free(candidate);
    }
}

/* From outside: nothing runs in the target, which need not answer, nor even go on. */
static bool take_passively(pid_t pid, const struct tm_attach_options *options, FILE *out,
                           GError **error)
{
    struct tm_extract_result result;
    g_autofree char *path =
        expand_name(options->output ? options->output : DEFAULT_PASSIVE_NAME, pid);
    g_autoptr(tm_target) target = tm_target_live(pid, error);

    if (!target || !tm_extract_to_file(target, path, &result, error)) {
        g_prefix_error(error, "%d: ", (int)pid);
        return false;
    }
    if (result.torn > 0)
        fprintf(stderr,
                "tm-attach: %d: %" G_GUINT64_FORMAT " entries were not complete and are "
                "not in the snapshot\n",
                (int)pid, result.torn);
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    fprintf(out, "%s\n", absolute);
    return true;
}

bool tm_verb_snapshot(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error)
{
    if (options->passive)
        return take_passively(pid, options, out, error);
    struct tm_directory directory = {.fd = -1};
    g_autoptr(tm_client) client = tm_client_connect_pid(pid, NULL, error);

    if (!client)
        return false;
    if (options->output && !options->in_target &&
        !tm_directory_open(&directory, options->output, pid, error)) {
        g_prefix_error(error, "%d: ", (int)pid);
        return false;
    }
    struct tm_msg_buf *msg = tm_client_request(client, TM_MSG_SNAPSHOT);
    if (options->output)
        tm_msg_put(msg, "output", directory.name ? directory.name : options->output);
    if (options->in_target)
        tm_msg_put_u64(msg, "in_target", 1);
    if (options->traces.given)
        tm_msg_put_u64(msg, "traces", options->traces.value);
    bool ok = tm_client_call(client, directory.fd, SNAPSHOT_TIMEOUT_MS, error);
    if (ok) {
        g_autofree char *path =
            directory.path ? g_build_filename(directory.path, tm_client_get(client, "file"), NULL)
                           : tm_client_dup_path(client, "file");
        fprintf(out, "%s\n", path ? path : "");
    }
    tm_directory_done(&directory);
    return ok;
}
