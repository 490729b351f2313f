// SPDX-License-Identifier: MIT
/*
 * Native frames in tracebacks: switched on for a session by its depth, and kept
 * true while modules come and go.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/native/record.h"
#include "payload/native/stack.h"
#include "payload/native/table.h"
#include "payload/store.h"
#include "payload/traceback.h"

#define TM_NATIVE_DEPTH_MAX 128u

/* Native frames to keep of each traceback; 0: none. Written while the lanes stand still. */
extern uint32_t tm_native_depth;

/* ---- the agent's side ---- */

/* Before the GIL is taken for tm_tracer_enable with a depth: builds the map. Holds no lock.
 * 0 or -errno with a message. */
int tm_native_prepare(char *message, size_t message_bytes);
/* Sets the depth and publishes what was prepared. The lanes stand still, the caches exist. False:
 * memory is short, or nothing was prepared (depth not 0). */
bool tm_native_enable_locked(uint32_t depth);
/* Compiles what the loader has brought and publishes it. Without the GIL; cheap where nothing has
 * changed. Native frames must be on. */
void tm_native_refresh(void);
/* Forgets everything; no hook runs. */
void tm_native_done(void);
/* How much of what is known is in memory, nearly. */
size_t tm_native_resident_bytes(void);
/* In a forked child, which inherits none of it. */
void tm_native_abandon(void);

/* ---- the hooks' side ---- */

/* `frame_address`: __builtin_frame_address(0) of a function that is still running, at whose caller
 * the walk begins. */

/* The traceback of this thread, native frames and Python's in one: as tm_traceback_get, with the
 * lane's lock. Takes no other lock unless it is a traceback that was not seen lately, allocates
 * nothing of the program's. */
bool tm_native_traceback_of(enum tm_lane lane, uint64_t tstate, const void *frame_address,
                            struct tm_traceback *ret);
/* The same from the caller on. */
bool tm_native_traceback(enum tm_lane lane, uint64_t tstate, struct tm_traceback *ret);
/* The GIL lane's, if it was met before: made for the layout in force. */
typedef bool tm_native_known_fn(uint64_t tstate, const void *frame_address,
                                struct tm_traceback *ret);
extern tm_native_known_fn *tm_native_known TM_HIDDEN;

/* ---- shared by native.c and walk.c ---- */

#define TM_NATIVE_ITEMS (TM_NATIVE_DEPTH_MAX + TM_TRACEBACK_LIMIT_MAX + 1)

/* A frame of the stack that is being gathered. */
struct tm_native_item {
    uint64_t key;       /* native: the return address, or enum tm_native_end; Python: its key */
    tm_frame_ref frame; /* Python; 0: native */
};

struct tm_native_lane {
    struct tm_native_pc *pcs;     /* TM_NATIVE_PCS */
    struct tm_native_item *items; /* TM_NATIVE_ITEMS */
    uint32_t *path;               /* TM_NATIVE_ITEMS site ids */
    struct tm_native_stack main_stack;
    struct tm_native_record record;
    uint64_t stamp; /* of the loader, when the addresses were looked up */
};

/* What stands for the Python frames where it is one that is asked for. hash1 0: it has no key. */
TM_ALWAYS_INLINE struct tm_fingerprint tm_native_one_frame(const struct tm_layout *layout,
                                                           tm_frame_ref frame)
{
    return (struct tm_fingerprint){tm_frames_key(layout, frame), TM_HASH_K2};
}

extern struct tm_native_lane tm_native_lanes[TM_LANES];
extern struct tm_native_map *tm_native_map;
extern uint64_t tm_native_eval_start, tm_native_eval_end; /* up to 3.9 */

/* Sets tm_native_known. No hook runs. */
void tm_native_choose_known(void);
/* As tm_native_record.look_up: data is the lane. */
void tm_native_look_up(void *data, uint64_t pc, struct tm_native_pc *ret);
/* The lane forgets what it knows of addresses. */
void tm_native_lane_forget(struct tm_native_lane *lane);

/* Interns the site of a return address or of a cut. map: where its module is; NULL: in none.
 * tm_intern_lock. */
uint32_t tm_native_site_locked(uint64_t pc, const struct tm_native_map *map);
