// SPDX-License-Identifier: MIT
/*
 * The shortest way to a traceback with native frames, for the hooks of the GIL
 * lane while one Python frame is asked for: a note of this lane's whose words are
 * all on the stack still. Reads only; whatever else there is to do is left to
 * payload/native/walk.c.
 */
#pragma once

#include "payload/native/loader.h"
#include "payload/native/native.h"
#include "payload/traceback.h"
#include "payload/tstate.h"

/* As a tm_native_known_fn. False: it is not known whether there is one. */
TM_ALWAYS_INLINE bool tm_native_noted(const struct tm_layout *layout, uint64_t tstate,
                                      const uint64_t *frame_address, struct tm_traceback *ret)
{
    const struct tm_native_lane *lane = &tm_native_lanes[TM_LANE_GIL];
    const struct tm_native_memos *memos = &lane->record.memos;
    uint64_t at = (uint64_t)(frame_address + 1), high;
    if (layout->py_version < 0x030c && TM_UNLIKELY(tstate == 0))
        return false; /* later ones: the hook has looked */
    tm_frame_ref frame = tm_frames_top(layout, tstate);
    if (TM_UNLIKELY(tm_traceback_limit != 1 || lane->stamp != tm_native_loader_stamp() ||
                    frame == 0 || !tm_frames_is_shown(layout, frame) ||
                    !tm_native_stack_known(&lane->main_stack, tm_tstate_thread_pointer(),
                                           at + sizeof(uint64_t), &high)))
        return false;
    /* What Python frames there are for each C frame need not be asked: it is one, this. */
    struct tm_fingerprint python = tm_native_one_frame(layout, frame);
    uint64_t tag = tm_native_memo_tag(&lane->record, at, high);
    const struct tm_native_note *note = tm_native_note_of(memos, tag, python.hash1);
    const struct tm_native_memo *memo =
        tm_native_note_memo(memos, note, python, tm_traceback_caches[TM_LANE_GIL].epoch);
    if (TM_UNLIKELY(memo == NULL || !tm_native_memo_is_there(memo, at, high, tm_native_depth, 1)))
        return false;
    *ret = (struct tm_traceback){note->node, note->counter};
    return true;
}
