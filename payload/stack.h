// SPDX-License-Identifier: MIT
/*
 * A record of the frames that a lane saw last, so that the next traceback costs
 * little more than what has changed since:
 *
 *   entries[0]     what lies below the record: nothing, or frames nobody asked for;
 *   entries[i]     a frame, its place when last seen, and a hash of the keys of
 *                  all recorded frames up to it.
 *
 * A look follows the real frames from the most recent one until it meets a
 * recorded frame, and compares what lies below with the record, place by place.
 * Every frame of the traceback is looked at each time, because nothing tells
 * which of them have moved; but its address is known beforehand, so that no load
 * waits for another, and a frame that has not moved is not hashed again. No
 * address is followed that was not just read from the frame above it.
 *
 * The hash is a polynomial of the keys: the fingerprint of the N most recent
 * frames is the difference of two hashes, whatever lies below them. The record
 * belongs to a lane's cache and is guarded by its lock. No code object is known
 * here, so that none needs to be forgotten.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/frames.h"
#include "payload/hash.h"

struct tm_fingerprint {
    uint64_t hash1, hash2;
};

struct tm_stack_entry {
    tm_frame_ref frame;
    uint64_t place; /* tm_frames_place */
    struct tm_fingerprint hash;
    uint16_t count; /* frames up to this one that Python shows in tracebacks */
    uint16_t shim;  /* index of the most recent one up to this that is a shim (3.12 on); 0: none */
    uint32_t node;  /* of the traceback of all of them, TM_NONE: not known */
};

#define TM_STACK_INDEX_LOG2 9

struct tm_stack {
    struct tm_stack_entry *entries, *top;      /* top: the most recent */
    tm_frame_ref *path;                        /* scratch: frames on the way to a recorded one */
    uint32_t capacity;                         /* entries that there is room for */
    uint32_t limit;                            /* what `power` is made for */
    struct tm_fingerprint power;               /* the multipliers, to the power of `limit` */
    uint32_t nodes_epoch;                      /* of the cache; nodes of others are not valid */
    uint32_t answer;                           /* the node of the last look ... */
    const struct tm_stack_entry *answered;     /* ... whose top this was; NULL: a frame has moved */
    uint16_t index[1u << TM_STACK_INDEX_LOG2]; /* by frame: its entry, to be checked */
};

/* Of an entry 0 below which there are frames that were not looked at. No frame has this address. */
#define TM_STACK_MORE 1u

/* False where memory is short. */
bool tm_stack_init(struct tm_stack *stack);
void tm_stack_done(struct tm_stack *stack);
size_t tm_stack_resident_bytes(const struct tm_stack *stack);
/* Forgets the frames. */
void tm_stack_clear(struct tm_stack *stack);
void tm_stack_set_limit(struct tm_stack *stack, uint32_t limit);
/* Forgets the nodes. */
void tm_stack_forget_nodes(struct tm_stack *stack, uint32_t epoch);

TM_ALWAYS_INLINE uint32_t tm_stack_index_of(tm_frame_ref frame)
{
    return (uint32_t)((frame * TM_HASH_K1) >> (64 - TM_STACK_INDEX_LOG2));
}

/* Makes the hashes of [low, top] anew. False: a frame has no key. */
TM_ALWAYS_INLINE bool tm_stack_hash(const struct tm_layout *layout, struct tm_stack_entry *low,
                                    const struct tm_stack_entry *top)
{
    /* In registers: a load of both halves at once would wait for the stores of each. */
    uint64_t hash1 = (low - 1)->hash.hash1, hash2 = (low - 1)->hash.hash2;
    uint32_t node = (low - 1)->node;
    for (struct tm_stack_entry *entry = low; entry <= top; entry++) {
        if (entry->count != (entry - 1)->count) {
            uint64_t key = tm_frames_key(layout, entry->frame);
            if (tm_frames_are_objects(layout) && TM_UNLIKELY(key == 0))
                return false;
            /* Not linear in the key: places of one function differ by little. */
            hash1 = hash1 * TM_HASH_K1 + (key ^ key << 27) * TM_HASH_K2;
            hash2 = hash2 * TM_HASH_K2 + (key ^ key >> 21) * TM_HASH_K1;
            node = UINT32_MAX;
        }
        entry->hash.hash1 = hash1;
        entry->hash.hash2 = hash2;
        entry->node = node;
    }
    return true;
}

/* tm_stack_follow for one layout, out of line: most looks do without. */
typedef struct tm_stack_entry *tm_stack_follow_fn(struct tm_stack *stack, tm_frame_ref frame,
                                                  uint32_t limit);
struct tm_stack_entry *tm_stack_follow_any(struct tm_stack *stack, tm_frame_ref frame,
                                           uint32_t limit);

/* Records the chain from `frame` down to a recorded frame, or as far as `limit` asks for and some
 * frames more. Returns the lowest entry whose hash is to be made. */
TM_ALWAYS_INLINE struct tm_stack_entry *tm_stack_follow(struct tm_stack *stack,
                                                        const struct tm_layout *layout,
                                                        tm_frame_ref frame, uint32_t limit)
{
    if (TM_UNLIKELY(stack->limit != limit))
        tm_stack_set_limit(stack, limit); /* the record was cleared, so that this comes first */
    struct tm_stack_entry *entries = stack->entries;
    uint32_t n_known = (uint32_t)(stack->top - entries), n = 0, n_shown = 0, at = 0;
    uint32_t wanted = limit + limit / 2 + 8;
    for (; frame != 0; frame = tm_frames_back(layout, frame)) {
        at = stack->index[tm_stack_index_of(frame)];
        if (at <= n_known && entries[at].frame == frame)
            break;
        at = 0;
        if (n_shown == wanted || n == stack->capacity / 2)
            break;
        uint64_t shown = tm_frames_is_shown(layout, frame);
        n_shown += (uint32_t)shown;
        stack->path[n++] = frame | shown; /* frames are aligned */
    }
    if (TM_UNLIKELY(at + n >= stack->capacity)) {
        /* Too deep by now: begin anew with what is asked for, which fits. */
        tm_stack_clear(stack);
        return NULL;
    }
    if (at == 0)
        entries[0] = (struct tm_stack_entry){.frame = frame != 0 ? TM_STACK_MORE : 0};
    struct tm_stack_entry *entry = &entries[at];
    while (n > 0) {
        frame = stack->path[--n] & ~(uint64_t)1;
        entry++;
        entry->frame = frame;
        entry->place = tm_frames_place(layout, frame);
        entry->count = (uint16_t)((entry - 1)->count + (stack->path[n] & 1));
        entry->shim =
            tm_frames_is_shim(layout, frame) ? (uint16_t)(entry - entries) : (entry - 1)->shim;
        stack->index[tm_stack_index_of(frame)] = (uint16_t)(entry - entries);
    }
    stack->top = entry;
    return &entries[at + 1];
}

/* False: Python shows the frame now, or shows it no longer, so that the counts are wrong. */
TM_ALWAYS_INLINE bool tm_stack_move(const struct tm_layout *layout, struct tm_stack_entry *entry,
                                    uint64_t place)
{
    entry->place = place;
    return tm_frames_is_shown(layout, entry->frame) == (entry->count != (entry - 1)->count);
}

/* The lowest entry of the `limit` most recent frames. */
TM_ALWAYS_INLINE struct tm_stack_entry *
tm_stack_last(const struct tm_stack *stack, const struct tm_layout *layout, uint32_t limit)
{
    if (stack->top->count <= limit)
        return stack->entries + 1;
    struct tm_stack_entry *last = stack->top - limit;
    uint32_t count = stack->top->count - limit;
    if (layout->py_version >= 0x030b) /* before, all are shown */
        while (last->count != count)
            last--;
    return last + 1;
}

/* Makes the record hold `frame`, which is shown, and those behind it, `limit` in all. Returns the
 * lowest entry of these, NULL where one has no key. */
TM_ALWAYS_INLINE const struct tm_stack_entry *tm_stack_look(struct tm_stack *stack,
                                                            const struct tm_layout *layout,
                                                            tm_stack_follow_fn *follow,
                                                            tm_frame_ref frame, uint32_t limit)
{
    struct tm_stack_entry *low, *last;
    int tries = 0;
again:
    if (tries++ == 3)
        return NULL; /* cannot be, but nobody shall wait for it here */
    low = stack->top + 1;
    if (stack->top->frame != frame && (low = follow(stack, frame, limit)) == NULL)
        goto again;
    /* Until the record is shown to hold what there is. */
    last = tm_stack_last(stack, layout, limit);
    struct tm_stack_entry *entry = stack->top;
    tm_frame_ref known = frame;
    for (;; entry--) {
        uint64_t place = tm_frames_place(layout, known);
        if (place != entry->place) {
            low = entry;
            if (TM_UNLIKELY(!tm_stack_move(layout, entry, place))) {
                tm_stack_clear(stack);
                goto again;
            }
        }
        if (entry == last)
            break;
        tm_frame_ref below = (entry - 1)->frame;
        if (TM_UNLIKELY(tm_frames_back(layout, known) != below)) {
            tm_stack_clear(stack);
            goto again;
        }
        known = below;
        __asm__("" : "+r"(known)); /* from the record: no load waits for the one above it */
    }
    if (stack->top->count < limit &&
        TM_UNLIKELY(tm_frames_back(layout, known) != (last - 1)->frame)) {
        tm_stack_clear(stack); /* there are more below */
        goto again;
    }
    if (low <= stack->top) {
        stack->answered = NULL;
        if (TM_UNLIKELY(!tm_stack_hash(layout, low, stack->top))) {
            tm_stack_clear(stack);
            return NULL;
        }
    }
    return last;
}

/* Of the frames from the most recent one to that of `last`, which tm_stack_look has found. */
TM_ALWAYS_INLINE struct tm_fingerprint tm_stack_fingerprint(const struct tm_stack *stack,
                                                            const struct tm_stack_entry *last)
{
    const struct tm_fingerprint *all = &stack->top->hash, *rest = &(last - 1)->hash;
    return (struct tm_fingerprint){all->hash1 - rest->hash1 * stack->power.hash1,
                                   all->hash2 - rest->hash2 * stack->power.hash2};
}
