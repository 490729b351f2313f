// SPDX-License-Identifier: MIT
#include "injector/client.h"
#include "injector/directory.h"
#include "injector/verbs.h"

/* Millions of traces onto a slow disk. */
#define SNAPSHOT_TIMEOUT_MS 600000

bool tm_verb_snapshot(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error)
{
    struct tm_directory directory = {.fd = -1};
    g_autoptr(tm_client) client = tm_client_connect_pid(pid, error);

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
