// SPDX-License-Identifier: MIT
/*
 * The tracing engine as the rest of the payload sees it: switch it on and off,
 * read its totals, ask to be woken when memory moves.
 *
 * Runs in the target. Unless a function says otherwise it may be called from
 * any thread. "GIL": the caller holds the GIL (on a free-threaded Python: has an
 * attached thread state).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/layout.h"

#define TM_TRACEBACK_LIMIT_MAX 4096u

struct tm_tracer_options {
    uint32_t traceback_limit; /* frames, 0 .. TM_TRACEBACK_LIMIT_MAX */
    uint64_t sample_bytes;    /* 0: every block */
    uint32_t native_depth;    /* native frames; 0: none; else tm_native_prepare came before */
};

struct tm_totals {
    uint64_t traced_bytes, traced_blocks; /* live now */
    uint64_t peak_bytes;
    uint64_t dropped;
    uint64_t own_bytes;      /* memory that the engine holds */
    uint64_t own_free_bytes; /* of it, without data */
};

/* Finds the C API and the struct layouts and checks them against what the API says of the
 * program's threads. GIL. `dwarf` may be NULL or have source NONE. 0, or a negative
 * enum tm_boot_error with a one-line message. Idempotent. */
int tm_tracer_setup(const struct tm_layout *dwarf, char *message, size_t message_bytes);

/* Before hooks are put in or taken out, which on some Pythons changes code that another thread may
 * be inside of. 0: go ahead. Else let go of the GIL for so many milliseconds, and ask again with
 * the next number (from 0 on; there is a last one). GIL, from the last call until `end`. */
unsigned tm_tracer_change_begin(unsigned attempt);
void tm_tracer_change_end(void);

/* Installs the hooks (where they are not in place) and starts with an empty store. GIL.
 * Already enabled: changes the options for new traces only. 0 or -errno with a message. */
int tm_tracer_enable(const struct tm_tracer_options *options, char *message, size_t message_bytes);

/* Stops recording, forgets all traces, and takes the hooks out where they are still the topmost.
 * GIL. The store's memory goes back to the system. */
enum tm_unhook {
    TM_UNHOOK_RESTORED = 0, /* the allocators are the originals, pointer by pointer */
    TM_UNHOOK_INERT = 1,    /* another tool hooked above us: ours stay as pass-through */
};
enum tm_unhook tm_tracer_disable(void);

/* After TM_UNHOOK_RESTORED: waits until no thread can still be inside a hook, at most timeout_ms,
 * not holding the GIL. True: the payload may be unmapped. */
bool tm_tracer_quiesce(int timeout_ms);

bool tm_tracer_is_enabled(void);
/* Applies to new traces only. GIL. */
void tm_tracer_set_limit(uint32_t frames);
uint32_t tm_tracer_native_depth(void);
/* Before tm_tracer_enable with a native_depth that is not 0: looks at the modules. Without the GIL.
 * 0 or -errno with a message. */
int tm_tracer_prepare_native(char *message, size_t message_bytes);
/* Looks whether modules have come or gone; every now and then. Without the GIL. */
void tm_tracer_refresh_native(void);

struct tm_filter_spec;
/* Replaces all filters (payload/filter.h). They apply to new traces only and survive a disable.
 * GIL. 0 or -errno as tm_filter_replace. */
int tm_tracer_set_filters(const struct tm_filter_spec *specs, size_t n_specs);

/* Looks whether our hooks are still in the way of every allocation. Where another tool has taken
 * them out, what was freed since then is not known and the traces are no longer true: they are
 * forgotten and tracing begins anew, which is counted. GIL. True: it was so. */
bool tm_tracer_restart_if_displaced(void);
struct tm_restarts {
    uint64_t count;       /* since this session began */
    uint64_t lost_blocks; /* traces that were forgotten in them */
};
struct tm_restarts tm_tracer_restarts(void);

/* Keeps the store in memory although tracing may be switched off meanwhile. False: tracing is
 * off. */
bool tm_tracer_hold(void);
/* Gives it up; the last one unmaps the store. Any thread. */
void tm_tracer_unhold(void);
uint32_t tm_tracer_traceback_limit(void);
const char *tm_tracer_layout_source(void); /* "debug-offsets", "dwarf", "table" */
struct tm_totals tm_tracer_totals(void);

/* Looks how much memory the engine has in use; totals tell the latest result. No GIL: this takes
 * milliseconds where much is traced. */
void tm_tracer_measure(void);
/* Gives memory back that the engine no longer needs, in pauses of some 100 us. Without the GIL. */
void tm_tracer_trim(void);

/* The window of the tasks: when traced bytes are <= low or >= high, the hook writes 8 bytes (1) to
 * the eventfd, once, and the window is off until it is set again. fd -1: no window. */
void tm_tracer_set_window(int eventfd, uint64_t low_bytes, uint64_t high_bytes);
