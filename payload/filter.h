// SPDX-License-Identifier: MIT
/*
 * Filters in the payload: decided once for each interned site and traceback, so
 * that a filter costs the hot path one flag. The semantics are those of
 * pytracemalloc.Filter.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "format/state.h"

/* TM_SITE_EXCLUDED where the filters on the most recent frame reject this site. */
uint32_t tm_filter_site_flags(const struct tm_site *site);
/* TM_NODE_EXCLUDED where the filters reject this traceback. */
uint16_t tm_filter_node_flags(const struct tm_node *node);
/* False: nothing is ever excluded, the flags need no look. */
bool tm_filter_any(void);
