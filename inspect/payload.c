// SPDX-License-Identifier: MIT
/* Finding the payload of an earlier attach in a process. Never stops it. */
#include "inspect/payload.h"

#include <fnmatch.h>
#include <string.h>

#include "format/boot.h"
#include "inspect/error.h"
#include "inspect/mapped_elf.h"
#include "inspect/memory.h"
#include "inspect/process.h"
#include "inspect/target.h"

/* Only these can hold a payload; looking into every module of the process would cost too much. */
bool tm_payload_has_name(const struct tm_module *module)
{
    const char *slash = strrchr(module->path, '/');
    const char *name = slash != NULL ? slash + 1 : module->path;
    return strstr(name, "memfd:" TM_MEMFD_PREFIX) != NULL ||
           fnmatch("*tm-payload*", name, 0) == 0 || fnmatch("*pytracemalloc*", name, 0) == 0;
}

/* In memory first: only who has capabilities can open the file of a memfd that is mapped. */
static bool find_state(tm_modules *modules, struct tm_module *module, uint64_t *ret_addr)
{
    tm_target memory;
    tm_target_init_memory(&memory, modules->pid);
    return tm_mapped_elf_find_export(&memory, module->start_addr, TM_STATE_SYMBOL, ret_addr) ||
           tm_module_export_addr(modules, module, TM_STATE_SYMBOL, ret_addr);
}

static void read_state(tm_modules *modules, struct tm_payload *ret)
{
    pid_t pid = modules->pid;
    if (!tm_memory_read(pid, ret->state_addr, &ret->state, sizeof(ret->state), NULL) ||
        ret->state.magic != TM_STATE_MAGIC || ret->state.version != TM_STATE_VERSION ||
        ret->state.size_bytes != sizeof(struct tm_state))
        return;
    /* The payload writes getpid() of its own namespace; a forked child has its parent's. */
    struct tm_process process;
    ret->state_valid = true;
    ret->inherited = tm_process_read(pid, &process, NULL) && ret->state.pid != process.ns_pid;
}

bool tm_payload_is_served(const struct tm_payload *payload)
{
    return payload->state_valid && !payload->inherited && payload->state.agent_alive &&
           payload->state.control_fd >= 0;
}

bool tm_inspect_find_payload(pid_t pid, tm_modules *modules, struct tm_payload *ret, GError **error)
{
    g_autoptr(tm_modules) own = NULL;
    if (modules == NULL && (modules = own = tm_modules_read(pid, error)) == NULL)
        return false;
    /* A process may hold several: hooks that another tool keeps outlive their agent. The one whose
     * agent lives is the payload; failing that the last that can be read. */
    struct tm_payload found = {0};
    bool alive = false;
    for (size_t i = 0; i < modules->count && !alive; i++) {
        struct tm_module *module = &modules->items[i];
        struct tm_payload one = {0};
        if (!tm_payload_has_name(module))
            continue;
        bool exported = find_state(modules, module, &one.state_addr);
        one.mapped = exported || strstr(module->path, "memfd:" TM_MEMFD_PREFIX) != NULL;
        if (exported)
            read_state(modules, &one);
        alive = one.state_valid && !one.inherited && one.state.agent_alive;
        if (one.mapped && (alive || one.state_valid || !found.state_valid))
            found = one;
    }
    *ret = found;
    return true;
}
