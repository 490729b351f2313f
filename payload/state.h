// SPDX-License-Identifier: MIT
/* The one struct tm_state of this process: see format/state.h for who reads it from outside. */
#pragma once

#include "format/state.h"

extern struct tm_state tm_state_export;
