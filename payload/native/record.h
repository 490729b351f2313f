// SPDX-License-Identifier: MIT
/*
 * A record of the native frames that a lane saw last, so that the next walk costs
 * little more than what has changed since:
 *
 *   entries[0]     why the record ends there;
 *   entries[i]     a frame, where its return address lies, and a hash of all
 *                  recorded frames up to it; the most recent is the last.
 *
 * Where a frame leads is told by the words that its rule reads, and by nothing
 * else: its return address, and for few also rbp and what it points to. A walk
 * looks frames up only until it comes upon a recorded one at the same place with
 * the same return address. From there on it compares each of those words with the
 * stack, in place, and goes no further than the traceback does; no load waits for
 * another. A frame that differs is looked up again, and those behind it as far as
 * they lie elsewhere.
 *
 * Beside it, for stacks that come again and again, the words themselves are kept
 * (payload/native/memo.h).
 *
 * Belongs to a lane and is guarded by its lock. It must be forgotten whenever
 * addresses may mean something else: when a map of modules is published or the
 * loader has been at work, and when the role of an address is learned.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/hash.h"
#include "payload/native/memo.h"
#include "payload/native/ranks.h"
#include "payload/native/rule.h"

/* What is known of a return address. */
struct tm_native_pc {
    uint64_t pc; /* 0: empty */
    struct tm_native_rule rule;
    uint32_t site; /* 0: not interned yet */
};

#define TM_NATIVE_PCS_LOG2 13
enum { TM_NATIVE_PCS = 1 << TM_NATIVE_PCS_LOG2, TM_NATIVE_PC_WAYS = 4 };

/* Why a native stack ends. All but the first two are shown as a frame of their own. */
enum tm_native_end {
    TM_NATIVE_END_MORE = -1, /* of a record: nobody asked further */
    TM_NATIVE_END_OUTERMOST = 0,
    TM_NATIVE_CUT_NO_TABLE = 1,
    TM_NATIVE_CUT_NO_MODULE = 2,
    TM_NATIVE_CUT_STACK = 3,
    TM_NATIVE_CUTS = 4,
};

struct tm_native_entry {
    uint64_t at;    /* address of the return address; the caller's frame begins above it */
    uint64_t pc;    /* the return address: a place in the function whose frame this is */
    uint64_t bp_at; /* where the value lies that rbp has in this frame */
    struct tm_native_rule rule;
    struct tm_fingerprint hash;
    uint16_t n_items;  /* frames up to here that are hashed */
    uint16_t n_native; /* of them, those that are shown as native ones */
    uint16_t special;  /* more is to be done than to compare the return address */
};

enum { TM_NATIVE_RECORD_ENTRIES = 1024 };

struct tm_native_record {
    struct tm_native_entry *entries, *top;
    struct tm_native_entry *steps; /* scratch: what is new, the most recent first */
    struct tm_fingerprint *powers; /* the multipliers, by exponent */
    struct tm_native_memos memos;
    enum tm_native_end end;   /* what entries[0] stands for */
    struct tm_native_pc *pcs; /* TM_NATIVE_PCS; the owner's */
    /* Fills a slot for an address that is not in its set. */
    void (*look_up)(void *data, uint64_t pc, struct tm_native_pc *ret);
    void *data;
};

/* False where memory is short. */
bool tm_native_record_init(struct tm_native_record *record);
void tm_native_record_done(struct tm_native_record *record);
void tm_native_record_clear(struct tm_native_record *record);
size_t tm_native_record_resident_bytes(const struct tm_native_record *record);

/* What is known of an address; never NULL. */
struct tm_native_pc *tm_native_pc_find(struct tm_native_record *record, uint64_t pc);

/* One walk. */
struct tm_native_walk {
    uint64_t at;    /* the most recent return address lies here; the word below is its rbp */
    uint64_t high;  /* the stack is readable from `at` up to here */
    uint32_t depth; /* native frames that are asked for, at least 1 */
    struct tm_native_ranks *ranks;
    const struct tm_layout *layout;
};

/* Whether a word of the walk's stack lies there; what rbp holds lies one below the first. */
TM_ALWAYS_INLINE bool tm_native_is_stack(const struct tm_native_walk *walk, uint64_t addr)
{
    return addr >= walk->at - sizeof(uint64_t) && addr <= walk->high - sizeof(uint64_t) &&
           (addr & 7) == 0;
}

/* The fingerprint of the most recent frames: of native ones those asked for, but none outwards of
 * the last Python frame. False: there is none. *ret_memo: the memo that was written of it with
 * `tag`, or NULL. */
bool tm_native_record_look(struct tm_native_record *record, const struct tm_native_walk *walk,
                           uint64_t tag, struct tm_fingerprint *ret,
                           struct tm_native_memo **ret_memo);

TM_ALWAYS_INLINE struct tm_native_pc *tm_native_pc_set(const struct tm_native_record *record,
                                                       uint64_t pc)
{
    uint64_t set = (pc * TM_HASH_K1) >> (64 - TM_NATIVE_PCS_LOG2);
    return &record->pcs[set & ~(uint64_t)(TM_NATIVE_PC_WAYS - 1)];
}

/* By which the memo of a walk that begins here is found; never 0. Its most recent frame and the
 * next tell it: who called the allocator, and at what place. */
TM_ALWAYS_INLINE uint64_t tm_native_memo_tag(const struct tm_native_record *record, uint64_t at,
                                             uint64_t high)
{
    uint64_t key = *(const uint64_t *)at;
    const struct tm_native_pc *known = tm_native_pc_set(record, key);
    uint64_t next = at + (uint64_t)(int64_t)known->rule.cfa_bytes;
    if (TM_LIKELY(known->pc == key && known->rule.kind == TM_CFI_RSP &&
                  next < high - sizeof(uint64_t)))
        key = *(const uint64_t *)next ^ next;
    else
        key ^= at;
    return (key * TM_HASH_K1) | 1;
}
