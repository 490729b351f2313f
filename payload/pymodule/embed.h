// SPDX-License-Identifier: MIT
/* The module's Python half, which python/ joins, as bytes: an attached target sees no path of ours.
 * NUL-terminated. */
#pragma once

extern const char tm_embed_source[];
#define TM_EMBED_FILE "<tm>/pytracemalloc.py"
