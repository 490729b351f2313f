// SPDX-License-Identifier: MIT
/*
 * For stacks that come again and again, beside the record of the frames that were
 * seen last (payload/native/record.h): all that a walk has read of the stack, as
 * a list of words and where they lay, and what came of it. Where the words are
 * the same, so is the traceback: they are compared and nothing else is done.
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
 * other out. 47 words: a memo is 13 lines of the processor's cache, the first two of which are all
 * that most walks need. */
#define TM_NATIVE_MEMO_SETS_LOG2 6
enum {
    TM_NATIVE_MEMO_WAYS = 4,
    TM_NATIVE_MEMOS = TM_NATIVE_MEMO_WAYS << TM_NATIVE_MEMO_SETS_LOG2,
    TM_NATIVE_MEMO_WORDS = 47,
};

struct tm_native_memo {
    struct tm_fingerprint print;
    /* For the owner: the traceback with these Python frames, as long as that cache's epoch lasts;
     * epoch 0: none. */
    struct tm_fingerprint python;
    void *counter;
    uint64_t ranks_hash; /* of the answers that the walk got about Python frames */
    uint32_t epoch, node;
    uint16_t n_words, n_evals; /* n_words is not 0 */
    uint32_t unused;
    uint64_t highest;      /* address of the words */
    uint32_t depth, limit; /* what was asked for */
    struct {
        uint64_t at, word;
    } words[TM_NATIVE_MEMO_WORDS]; /* the most recent return address is the first */
} __attribute__((aligned(64)));

struct tm_native_memos {
    uint64_t *tags; /* TM_NATIVE_MEMOS; 0: there is no memo */
    struct tm_native_memo *memos;
    uint32_t next_way; /* which of a set goes */
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

/* Whether all that the walk has read is there still, and means the same with these Python frames.
 */
TM_ALWAYS_INLINE bool tm_native_memo_holds(const struct tm_native_memo *memo, uint64_t at,
                                           uint64_t high, uint32_t depth,
                                           struct tm_native_ranks ranks,
                                           const struct tm_layout *layout)
{
    if (TM_UNLIKELY(memo->words[0].at != at || memo->highest >= high || memo->depth != depth ||
                    memo->limit != ranks.limit))
        return false;
    uint32_t i = 0, n_words = memo->n_words;
    do {
        if (TM_UNLIKELY(*(const uint64_t *)memo->words[i].at != memo->words[i].word))
            return false;
    } while (++i < n_words);
    for (i = memo->n_evals; i > 0; i--)
        if (TM_UNLIKELY(tm_native_ranks_next(&ranks, layout) == TM_NATIVE_RANK_UNKNOWN))
            return false;
    return TM_LIKELY(ranks.hash == memo->ranks_hash);
}

/* The memo of a walk that begins here, where one holds; NULL: none does. */
TM_ALWAYS_INLINE struct tm_native_memo *
tm_native_memo_find(const struct tm_native_memos *memos, uint64_t tag, uint64_t at, uint64_t high,
                    uint32_t depth, struct tm_native_ranks ranks, const struct tm_layout *layout)
{
    uint64_t first = tag >> (64 - TM_NATIVE_MEMO_SETS_LOG2) << 2;
    _Static_assert(TM_NATIVE_MEMO_WAYS == 1 << 2, "the shift is of the ways");
    for (uint64_t i = first; i < first + TM_NATIVE_MEMO_WAYS; i++) {
        struct tm_native_memo *memo = &memos->memos[i];
        if (memos->tags[i] == tag &&
            TM_LIKELY(tm_native_memo_holds(memo, at, high, depth, ranks, layout)))
            return memo;
    }
    return NULL;
}
