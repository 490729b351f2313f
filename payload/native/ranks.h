// SPDX-License-Identifier: MIT
/*
 * How many of the Python frames lie inwards of a C frame that runs Python code,
 * told from the record of Python's frames (payload/stack.h) that was compared
 * with them just now. One is asked after the other, from the most recent C frame
 * outwards. Where the interpreter keeps the end of one C call's frames:
 *   up to 3.10   each call runs one frame
 *   3.11         _PyCFrame.current_frame, read anew each time: the same frames can
 *                be run by other calls (Include/internal/pycore_frame.h)
 *   3.12 on      the shim frames; one lies on the C stack, where no other kind of
 *                frame can be, so that the record need not ask again
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "payload/frames.h"
#include "payload/stack.h"

struct tm_native_ranks {
    const struct tm_stack
        *stack; /* NULL: there is no frame, or one, n_shown, is all that is asked for */
    const struct tm_stack_entry *last; /* of the frames that are asked for, the outermost */
    const struct tm_stack_entry *from; /* 3.12 on */
    uint64_t cframe;                   /* 3.11 */
    uint32_t limit, n_shown, n;
    uint64_t hash; /* of what was answered */
};

enum tm_native_rank { TM_NATIVE_RANK_MORE, TM_NATIVE_RANK_LIMIT, TM_NATIVE_RANK_UNKNOWN };

/* The record of `frame`, NULL where it is outwards of those asked for. */
TM_ALWAYS_INLINE const struct tm_stack_entry *
tm_native_ranks_find(const struct tm_native_ranks *ranks, tm_frame_ref frame)
{
    const struct tm_stack *stack = ranks->stack;
    const struct tm_stack_entry *entry = &stack->entries[stack->index[tm_stack_index_of(frame)]];
    if (TM_LIKELY(entry->frame == frame && entry <= stack->top && entry >= ranks->last))
        return entry;
    for (entry = stack->top; entry >= ranks->last; entry--)
        if (entry->frame == frame)
            return entry;
    return NULL;
}

/* Passes one C frame that runs Python code. */
TM_ALWAYS_INLINE enum tm_native_rank tm_native_ranks_next(struct tm_native_ranks *ranks,
                                                          const struct tm_layout *layout)
{
    uint32_t rank = ranks->n_shown;
    if (ranks->stack == NULL) {
        /* As it is. */
    } else if (layout->py_version >= 0x030c) {
        const struct tm_stack_entry *shim = &ranks->stack->entries[ranks->from->shim];
        if (shim >= ranks->last) {
            rank -= shim->count;
            ranks->from = shim - 1;
        }
    } else if (layout->py_version == 0x030b) {
        uint32_t current = (uint32_t)layout->cframe_current_frame;
        if (ranks->cframe != 0)
            ranks->cframe = tm_frames_load(ranks->cframe + current + 8);
        tm_frame_ref frame = ranks->cframe != 0 ? tm_frames_load(ranks->cframe + current) : 0;
        if (frame != 0) {
            const struct tm_stack_entry *entry = tm_native_ranks_find(ranks, frame);
            if (entry != NULL)
                rank -= entry->count;
            else if (rank < ranks->limit)
                return TM_NATIVE_RANK_UNKNOWN;
        }
    } else if (++ranks->n < rank) {
        rank = ranks->n;
    }
    ranks->hash = tm_hash_mix(ranks->hash, rank < ranks->limit ? rank : ranks->limit);
    return rank < ranks->limit || ranks->limit == 0 ? TM_NATIVE_RANK_MORE : TM_NATIVE_RANK_LIMIT;
}
