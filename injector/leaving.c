// SPDX-License-Identifier: MIT
#include "injector/leaving.h"

#include <string.h>

#include "format/state.h"
#include "inspect/memory.h"
#include "inspect/process.h"

#define TIMEOUT_US 10000000
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

bool tm_leaving_wait(pid_t pid, uint64_t state_addr, bool unloads)
{
    gint64 deadline_us = g_get_monotonic_time() + TIMEOUT_US;

    for (;;) {
        if (!has_agent_thread(pid) && !(unloads && is_mapped(pid, state_addr)))
            return true;
        if (g_get_monotonic_time() >= deadline_us)
            return false;
        g_usleep(TM_LEAVING_LOOK_US);
    }
}
