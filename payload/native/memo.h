// SPDX-License-Identifier: MIT
/*
 * For stacks that come again and again, beside the record of the frames that were
 * seen last (payload/native/record.h): all that a walk has read of the stack, as
 * a list of words and where they lay, and what came of it. Where the words are
 * the same, so is the traceback: they are compared and nothing else is done.
 *
 * A note says which traceback came of a memo together with the Python frames that
 * were there: where both are as they were, nothing else is looked up.
 *
 * Belongs to a record, and is forgotten with it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/hash.h"
#include "payload/native/ranks.h"

/* A set has ways, so that stacks that take turns and fall on the same place do not drive each
 * other out. 48 words: a memo is 13 lines of the processor's cache, the first two of which are all
 * that most walks need. */
#define TM_NATIVE_MEMO_SETS_LOG2 8
#define TM_NATIVE_MEMO_WAYS_LOG2 2
#define TM_NATIVE_MEMOS_LOG2 (TM_NATIVE_MEMO_SETS_LOG2 + TM_NATIVE_MEMO_WAYS_LOG2)
#define TM_NATIVE_NOTES_LOG2 12
enum {
    TM_NATIVE_MEMO_WAYS = 1 << TM_NATIVE_MEMO_WAYS_LOG2,
    TM_NATIVE_MEMOS = 1 << TM_NATIVE_MEMOS_LOG2,
    TM_NATIVE_MEMO_WORDS = 48,
    TM_NATIVE_NOTES = 1 << TM_NATIVE_NOTES_LOG2,
};

struct tm_native_memo {
    uint64_t serial;           /* of no other memo; its low bits are the place; 0: it is gone */
    uint64_t highest;          /* address of the words */
    uint32_t depth, limit;     /* what was asked for */
    uint16_t n_words, n_evals; /* n_words is not 0 */
    uint32_t unused;
    struct tm_fingerprint print;
    uint64_t ranks_hash; /* of the answers that the walk got about Python frames */
    struct {
        uint64_t at, word;
    } words[TM_NATIVE_MEMO_WORDS]; /* the most recent return address is the first */
} __attribute__((aligned(64)));

/* With the stack of this memo and these Python frames it is this traceback, as long as the epoch of
 * the owner's cache lasts. */
struct tm_native_note {
    struct tm_fingerprint python;
    uint64_t serial; /* 0: empty */
    void *counter;
    uint32_t epoch, node;
} __attribute__((aligned(64)));

struct tm_native_memos {
    uint64_t *tags; /* TM_NATIVE_MEMOS; 0: there is no memo */
    struct tm_native_memo *memos;
    struct tm_native_note *notes;
    uint64_t written; /* so many memos so far */
};

/* False where memory is short. */
bool tm_native_memos_init(struct tm_native_memos *memos);
void tm_native_memos_done(struct tm_native_memos *memos);
void tm_native_memos_clear(struct tm_native_memos *memos);
size_t tm_native_memos_resident_bytes(const struct tm_native_memos *memos);

struct tm_native_record;
struct tm_native_walk;
struct tm_native_entry;
/* Notes the walk that `record` holds now and what came of it: its most recent frame's entry is the
 * top, `cut` the outermost one that does not belong to it. NULL: there is more than a memo holds.
 */
struct tm_native_memo *tm_native_memo_write(struct tm_native_record *record, uint64_t tag,
                                            const struct tm_native_walk *walk,
                                            const struct tm_native_entry *cut,
                                            struct tm_fingerprint print);

/* Whether all that the walk has read of the stack is there still. */
TM_ALWAYS_INLINE bool tm_native_memo_is_there(const struct tm_native_memo *memo, uint64_t at,
                                              uint64_t high, uint32_t depth, uint32_t limit)
{
    if (TM_UNLIKELY(memo->words[0].at != at || memo->highest >= high || memo->depth != depth ||
                    memo->limit != limit))
        return false;
    uint32_t i = 0, n_words = memo->n_words;
    do {
        if (TM_UNLIKELY(*(const uint64_t *)memo->words[i].at != memo->words[i].word))
            return false;
    } while (++i < n_words);
    return true;
}

/* And whether it means the same with these Python frames. */
TM_ALWAYS_INLINE bool tm_native_memo_holds(const struct tm_native_memo *memo, uint64_t at,
                                           uint64_t high, uint32_t depth,
                                           struct tm_native_ranks ranks,
                                           const struct tm_layout *layout)
{
    if (TM_UNLIKELY(!tm_native_memo_is_there(memo, at, high, depth, ranks.limit)))
        return false;
    for (uint32_t i = memo->n_evals; i > 0; i--)
        if (TM_UNLIKELY(tm_native_ranks_next(&ranks, layout) == TM_NATIVE_RANK_UNKNOWN))
            return false;
    return TM_LIKELY(ranks.hash == memo->ranks_hash);
}

/* The first place of the set that a tag belongs to. */
TM_ALWAYS_INLINE uint64_t tm_native_memo_set(uint64_t tag)
{
    return tag >> (64 - TM_NATIVE_MEMO_SETS_LOG2) << TM_NATIVE_MEMO_WAYS_LOG2;
}

/* The memo of a walk that begins here, where one holds; NULL: none does. */
TM_ALWAYS_INLINE struct tm_native_memo *
tm_native_memo_find(const struct tm_native_memos *memos, uint64_t tag, uint64_t at, uint64_t high,
                    uint32_t depth, struct tm_native_ranks ranks, const struct tm_layout *layout)
{
    uint64_t first = tm_native_memo_set(tag);
    for (uint64_t i = first; i < first + TM_NATIVE_MEMO_WAYS; i++) {
        struct tm_native_memo *memo = &memos->memos[i];
        if (memos->tags[i] == tag &&
            TM_LIKELY(tm_native_memo_holds(memo, at, high, depth, ranks, layout)))
            return memo;
    }
    return NULL;
}

/* Where the note of a memo with this tag and these Python frames is. */
TM_ALWAYS_INLINE struct tm_native_note *tm_native_note_of(const struct tm_native_memos *memos,
                                                          uint64_t tag, uint64_t python_hash1)
{
    uint64_t key = (tag ^ python_hash1 * TM_HASH_K2) * TM_HASH_K1;
    return &memos->notes[key >> (64 - TM_NATIVE_NOTES_LOG2)];
}

/* The memo that a note is of. NULL: the note is of others, or the memo is gone. */
TM_ALWAYS_INLINE struct tm_native_memo *tm_native_note_memo(const struct tm_native_memos *memos,
                                                            const struct tm_native_note *note,
                                                            struct tm_fingerprint python,
                                                            uint32_t epoch)
{
    struct tm_native_memo *memo = &memos->memos[note->serial & (TM_NATIVE_MEMOS - 1)];
    return TM_LIKELY(note->python.hash1 == python.hash1 && note->python.hash2 == python.hash2 &&
                     note->epoch == epoch && note->serial == memo->serial)
               ? memo
               : NULL;
}
