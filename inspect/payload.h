// SPDX-License-Identifier: MIT
/* Finding the payload of an earlier attach in a process, to talk to its agent. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "format/state.h"
#include "inspect/module.h"

struct tm_payload {
    bool mapped;           /* a payload is in the process */
    bool state_valid;      /* state was read, and its magic, version and pid are right */
    bool inherited;        /* it was forked with the process: the agent is the parent's */
    uint64_t state_addr;   /* of struct tm_state in the target; 0 where it was not found */
    struct tm_state state; /* a copy; nothing in it is to be trusted */
};

/* Whether an agent of the process itself serves it. */
bool tm_payload_is_served(const struct tm_payload *payload);

/* Whether a module's name is one that a payload can have. */
bool tm_payload_has_name(const struct tm_module *module);

/* Looks for a mapped payload: by the name of its memfd, or by TM_STATE_SYMBOL for one that was
 * loaded as a Python extension. False and *error only where the process cannot be looked at.
 * A caller that has the modules already passes them; otherwise NULL. Cheap: some 0.3 ms. */
bool tm_inspect_find_payload(pid_t pid, tm_modules *modules, struct tm_payload *ret,
                             GError **error);
