// SPDX-License-Identifier: MIT
#include "payload/state.h"

__attribute__((visibility("default"))) struct tm_state tm_state_export = {
    .magic = TM_STATE_MAGIC,
    .version = TM_STATE_VERSION,
    .size_bytes = sizeof(struct tm_state),
    .control_fd = -1,
    .shape = TM_STATE_SHAPE,
};

extern struct tm_state tm_state_own __attribute__((alias("tm_state_export"), visibility("hidden")));
