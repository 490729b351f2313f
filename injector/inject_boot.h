// SPDX-License-Identifier: MIT
/* tm-attach's side of the boot block: hands the payload over, waits until it runs. No ptrace. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "format/boot.h"

struct tm_boot_watch {
    pid_t pid;
    pid_t living_pid; /* tm_process_living of it */
    uint64_t block_addr;
    GBytes *payload; /* borrowed */
    uint64_t boot_ns;
    uint64_t gil_ns;
    void (*booting)(void *arg, uint32_t phase); /* NULL, or called instead of sleeping */
    void *booting_arg;
};

/* Waits for TM_BOOT_RUNNING; *ret is then the block as it was read last. Otherwise the block is
 * abandoned (a late thread unmaps it and ends) and the error says why. */
bool tm_inject_boot(const struct tm_boot_watch *watch, struct tm_boot *ret, GError **error);
/* The same where nobody is going to wait for it. */
void tm_inject_abandon(const struct tm_boot_watch *watch);
