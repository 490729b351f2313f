// SPDX-License-Identifier: MIT
/*
 * A payload that traces nothing, for the tests of the way in. It reports RUNNING, counts
 * heartbeats in its struct tm_state, and returns when state.tracing is set to TM_TRACING_ON from
 * outside (the tests use that word as "go away"). Links libc only, and knows no Python.
 */
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "format/boot.h"
#include "format/state.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT struct tm_state tm_state_export;
EXPORT void tm_payload_start(struct tm_boot *boot);

void tm_payload_start(struct tm_boot *boot)
{
    struct tm_state *state = &tm_state_export;
    if (boot->magic != TM_BOOT_MAGIC || boot->version != TM_BOOT_VERSION) {
        strcpy(boot->message, "another version");
        boot->error = TM_BOOT_E_VERSION;
        atomic_store(&boot->phase, TM_BOOT_FAILED);
        return;
    }
    *state = (struct tm_state){.magic = TM_STATE_MAGIC,
                               .version = TM_STATE_VERSION,
                               .size_bytes = sizeof(struct tm_state),
                               .pid = getpid(),
                               .control_fd = -1};
    atomic_store(&state->agent_alive, 1);
    boot->state_addr = (uint64_t)(uintptr_t)state;
    atomic_store(&boot->phase, TM_BOOT_RUNNING);
    while (atomic_load(&state->tracing) == TM_TRACING_OFF) {
        atomic_fetch_add(&state->own_bytes, 1);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    atomic_store(&state->agent_alive, 0);
}
