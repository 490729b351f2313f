// SPDX-License-Identifier: MIT
#include "injector/verbs.h"

#include <string.h>

#include "injector/client.h"
#include "inspect/memory.h"
#include "inspect/process.h"

#define DETACH_TIMEOUT_MS 60000
#define LEAVE_TIMEOUT_US 10000000
#define LOOK_US 2000
#define AGENT_NAME "tm-agent\n"

/* The agent's thread ends with the last instruction of what was mapped, after the payload. */
static bool has_agent_thread(pid_t pid)
{
    g_autoptr(GArray) threads = tm_process_threads(pid, NULL);

    for (guint i = 0; threads && i < threads->len; i++) {
        g_autofree char *name = NULL;
        g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/comm", (int)pid,
                                                (int)g_array_index(threads, pid_t, i));
        if (g_file_get_contents(path, &name, NULL, NULL) && !strcmp(name, AGENT_NAME))
            return true;
    }
    return false;
}

/* Whether the payload with this state is in the process. One that cannot be looked at any more has
 * ended. There may be others in it: a forked child has its parent's. */
static bool is_mapped(pid_t pid, uint64_t state_addr)
{
    uint64_t magic;

    return tm_memory_read(tm_process_living(pid), state_addr, &magic, sizeof(magic), NULL) &&
           magic == TM_STATE_MAGIC;
}

/* Until the agent's thread has ended, and where `unloads`, its payload is unmapped: who attaches
 * next does not meet what is about to go. False: that takes too long. */
static bool wait_until_gone(pid_t pid, uint64_t state_addr, bool unloads)
{
    gint64 deadline_us = g_get_monotonic_time() + LEAVE_TIMEOUT_US;

    for (;;) {
        if (!has_agent_thread(pid) && !(unloads && is_mapped(pid, state_addr)))
            return true;
        if (g_get_monotonic_time() >= deadline_us)
            return false;
        g_usleep(LOOK_US);
    }
}

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
    bool gone = wait_until_gone(pid, state_addr, unloads);
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
