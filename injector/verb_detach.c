// SPDX-License-Identifier: MIT
#include "injector/verbs.h"

#include "injector/client.h"
#include "injector/leaving.h"

#define DETACH_TIMEOUT_MS 60000

bool tm_verb_detach(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error)
{
    uint64_t state_addr;
    g_autoptr(tm_client) client = tm_client_connect_pid(pid, &state_addr, error);

    (void)options;
    if (!client)
        return false;
    tm_client_request(client, TM_MSG_DETACH);
    if (!tm_client_call(client, -1, DETACH_TIMEOUT_MS, error))
        return false;
    const char *hooks = tm_client_get(client, "hooks");
    bool unloads = tm_client_get_u64(client, "unloads") != 0;
    bool gone = tm_leaving_wait(pid, state_addr, unloads);
    const char *rest = "left as it was";
    if (g_strcmp0(hooks, "inert") == 0)
        rest = "another tool hooked above us: our hooks stay, passing through only";
    else if (!unloads)
        rest = "a thread is still inside our code, the program holds objects or hooks of ours, or "
               "it is a forked child: our code stays mapped, doing nothing";
    else if (!gone)
        rest = "our code is about to be unmapped";
    guint64 written = tm_client_get_u64(client, "written");
    fprintf(out, "%d: detached, %s, %" G_GUINT64_FORMAT " snapshot%s written\n", (int)pid, rest,
            written, written == 1 ? " was" : "s were");
    return true;
}
