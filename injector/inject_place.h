// SPDX-License-Identifier: MIT
/* Where in the target's address space there is room that nobody will want. */
#pragma once

#include <stdint.h>

#include "inspect/maps.h"

/* An address, in whole pages, somewhere in the middle of the largest gap between mappings; 0 where
 * no gap is so large that others stay far away from there. */
uint64_t tm_place_find(const tm_maps *maps);
