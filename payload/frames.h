// SPDX-License-Identifier: MIT
/*
 * Walks a thread's Python frames and turns them into keys: one 64-bit number
 * for a frame's code and instruction, exact while that code object lives. The
 * thread is the caller's own, or stands still because the caller holds the GIL.
 * Reads memory only; calls nothing. The inline functions take the layout as an
 * argument: a caller that passes a row of payload/layout_table.h gets code with
 * constant offsets.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/layout.h"

typedef uint64_t tm_frame_ref; /* address of a frame; 0: none */

#define TM_ALWAYS_INLINE __attribute__((always_inline)) static inline
#define TM_LIKELY(x) __builtin_expect(!!(x), 1)
#define TM_UNLIKELY(x) __builtin_expect(!!(x), 0)

TM_ALWAYS_INLINE uint64_t tm_frames_load(uint64_t addr)
{
    return *(const uint64_t *)addr;
}

TM_ALWAYS_INLINE bool tm_frames_are_objects(const struct tm_layout *layout)
{
    return layout->tstate_frame != TM_NO_FIELD;
}

/* The most recent frame of a thread state. */
TM_ALWAYS_INLINE tm_frame_ref tm_frames_top(const struct tm_layout *layout, uint64_t tstate)
{
    if (tm_frames_are_objects(layout))
        return tm_frames_load(tstate + (uint32_t)layout->tstate_frame);
    if (layout->tstate_current_frame != TM_NO_FIELD)
        return tm_frames_load(tstate + (uint32_t)layout->tstate_current_frame);
    uint64_t cframe = tm_frames_load(tstate + (uint32_t)layout->tstate_cframe);
    return cframe ? tm_frames_load(cframe + (uint32_t)layout->cframe_current_frame) : 0;
}

TM_ALWAYS_INLINE tm_frame_ref tm_frames_back(const struct tm_layout *layout, tm_frame_ref frame)
{
    int32_t offset = tm_frames_are_objects(layout) ? layout->frame_back : layout->iframe_previous;
    return tm_frames_load(frame + (uint32_t)offset);
}

TM_ALWAYS_INLINE uint64_t tm_frames_code(const struct tm_layout *layout, tm_frame_ref frame)
{
    int32_t offset = tm_frames_are_objects(layout) ? layout->frame_code : layout->iframe_code;
    /* From 3.14 the reference carries tag bits; objects are aligned to 8 bytes at least. */
    return tm_frames_load(frame + (uint32_t)offset) & ~(uint64_t)7;
}

/* _PyInterpreterFrame.owner, CPython 3.11 to 3.14, Include/internal/pycore_frame.h. */
enum { TM_FRAME_OWNED_BY_GENERATOR = 1, TM_FRAME_OWNED_BY_INTERPRETER = 3 };

/*
 * The key of a frame. Up to 3.10 it is made of the code object's address and
 * f_lasti: code objects are aligned to 8 bytes, so that 44 bits name one in a
 * 47-bit address space and 20 bits are left for f_lasti + 1 (0 where that does
 * not fit: such a frame is not cached). From 3.11 on it is the instruction's
 * address; bit 0 tells a generator's frame, for which a place before the first
 * traceable instruction counts as a place in the code.
 */
TM_ALWAYS_INLINE uint64_t tm_frames_key(const struct tm_layout *layout, tm_frame_ref frame)
{
    if (tm_frames_are_objects(layout)) {
        uint64_t code = tm_frames_load(frame + (uint32_t)layout->frame_code);
        uint32_t lasti = *(const uint32_t *)(frame + (uint32_t)layout->frame_lasti) + 1;
        return TM_UNLIKELY(lasti >> 20 != 0) ? 0 : code >> 3 << 20 | lasti;
    }
    uint64_t instr = tm_frames_load(frame + (uint32_t)layout->iframe_instr);
    uint8_t owner = *(const uint8_t *)(frame + (uint32_t)layout->iframe_owner);
    if (TM_UNLIKELY(owner == TM_FRAME_OWNED_BY_GENERATOR))
        return instr | 1;
    return instr;
}

/* What moves when the frame goes on, and only then. A frame that is at the same address and place
 * as before has the same key: code of generators is told from other code by its place already. */
TM_ALWAYS_INLINE uint64_t tm_frames_place(const struct tm_layout *layout, tm_frame_ref frame)
{
    if (tm_frames_are_objects(layout))
        return tm_frames_key(layout, frame);
    return tm_frames_load(frame + (uint32_t)layout->iframe_instr);
}

/* True where the frame is the interpreter's own, between a C caller and Python code (3.12 on). */
TM_ALWAYS_INLINE bool tm_frames_is_shim(const struct tm_layout *layout, tm_frame_ref frame)
{
    if (layout->py_version < 0x030c)
        return false;
    return *(const uint8_t *)(frame + (uint32_t)layout->iframe_owner) >=
           TM_FRAME_OWNED_BY_INTERPRETER;
}

/*
 * True where Python shows the frame in tracebacks: _PyFrame_IsIncomplete of CPython 3.11 to 3.13,
 * Include/internal/pycore_frame.h. Not shown are frames that have not begun, those between a C
 * caller and Python code, and one below each __init__ from 3.12 on (_Py_InitCleanup,
 * Python/specialize.c). The key alone tells it.
 */
TM_ALWAYS_INLINE bool tm_frames_is_shown(const struct tm_layout *layout, tm_frame_ref frame)
{
    if (tm_frames_are_objects(layout))
        return true;
    uint8_t owner = *(const uint8_t *)(frame + (uint32_t)layout->iframe_owner);
    if (owner == TM_FRAME_OWNED_BY_GENERATOR)
        return true;
    if (owner >= TM_FRAME_OWNED_BY_INTERPRETER)
        return false;
    uint64_t code = tm_frames_code(layout, frame);
    int32_t first = *(const int32_t *)(code + (uint32_t)layout->code_firsttraceable);
    uint64_t instr = tm_frames_load(frame + (uint32_t)layout->iframe_instr);
    return (int64_t)(instr - code - (uint32_t)layout->code_adaptive) >= (int64_t)first * 2;
}

/* These use the layout in force. */

/* Byte offset of the frame's instruction in its code; -1: before the first. */
int32_t tm_frames_lasti_bytes(tm_frame_ref frame);

/* The range of keys that frames of this code object can have: [low, high). */
void tm_frames_code_keys(uint64_t code, uint64_t *ret_low, uint64_t *ret_high);
