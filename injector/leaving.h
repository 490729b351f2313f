// SPDX-License-Identifier: MIT
/* An agent that has been told to go, or goes by itself: a moment in which its process is neither
 * traced nor as it was. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* How often is looked, and for how long at an agent that does not answer, in microseconds. */
#define TM_LEAVING_LOOK_US 2000
#define TM_LEAVING_PATIENCE_US 2000000

/* Waits until the agent's thread has ended and, where `unloads`, the payload whose struct tm_state
 * is at state_addr is unmapped: who looks or attaches next does not meet what is about to go.
 * False: not within 10 s. */
bool tm_leaving_wait(pid_t pid, uint64_t state_addr, bool unloads);
