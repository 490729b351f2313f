// SPDX-License-Identifier: MIT
#include "payload/native/memo.h"

#include <string.h>

#include "payload/mem.h"
#include "payload/native/record.h"

static const size_t memos_bytes = TM_NATIVE_MEMOS * sizeof(struct tm_native_memo);
static const size_t notes_bytes = TM_NATIVE_NOTES * sizeof(struct tm_native_note);
static const size_t tags_bytes = TM_NATIVE_MEMOS * sizeof(uint64_t);

bool tm_native_memos_init(struct tm_native_memos *memos)
{
    if (memos->tags == NULL)
        memos->tags = tm_mem_map_sparse(tags_bytes);
    if (memos->memos == NULL)
        memos->memos = tm_mem_map_sparse(memos_bytes);
    if (memos->notes == NULL)
        memos->notes = tm_mem_map_sparse(notes_bytes);
    return memos->tags != NULL && memos->memos != NULL && memos->notes != NULL;
}

void tm_native_memos_done(struct tm_native_memos *memos)
{
    tm_mem_unmap_sparse(memos->tags, tags_bytes);
    tm_mem_unmap_sparse(memos->memos, memos_bytes);
    tm_mem_unmap_sparse(memos->notes, notes_bytes);
    *memos = (struct tm_native_memos){0};
}

/* Touches no more memory than has been used. */
void tm_native_memos_clear(struct tm_native_memos *memos)
{
    for (int i = 0; memos->tags != NULL && i < TM_NATIVE_MEMOS; i++) {
        if (memos->tags[i] != 0)
            memos->memos[i].serial = 0;
        memos->tags[i] = 0;
    }
}

size_t tm_native_memos_resident_bytes(const struct tm_native_memos *memos)
{
    return tm_mem_resident_bytes(memos->tags, tags_bytes, NULL) +
           tm_mem_resident_bytes(memos->memos, memos_bytes, NULL) +
           tm_mem_resident_bytes(memos->notes, notes_bytes, NULL);
}

static bool note(struct tm_native_memo *memo, const struct tm_native_walk *walk, uint64_t at)
{
    if (memo->n_words == TM_NATIVE_MEMO_WORDS || !tm_native_is_stack(walk, at))
        return false;
    memo->words[memo->n_words].at = at;
    memo->words[memo->n_words++].word = *(const uint64_t *)at;
    if (at > memo->highest)
        memo->highest = at;
    return true;
}

static bool note_frame(struct tm_native_memo *memo, const struct tm_native_walk *walk,
                       const struct tm_native_entry *entry)
{
    bool by_bp = entry->rule.kind == TM_CFI_RBP || entry->rule.kind == TM_CFI_RBP_DEREF;
    memo->n_evals += entry->rule.role == TM_NATIVE_ROLE_EVAL;
    return note(memo, walk, entry->at) && (!by_bp || note(memo, walk, entry->bp_at)) &&
           (entry->rule.kind != TM_CFI_RBP_DEREF ||
            note(memo, walk,
                 *(const uint64_t *)entry->bp_at + (uint64_t)(int64_t)entry->rule.cfa_bytes));
}

/* One that is there no more, or any. */
static uint64_t choose(const struct tm_native_memos *memos, uint64_t tag)
{
    uint64_t first = tm_native_memo_set(tag);
    for (uint64_t i = first; i < first + TM_NATIVE_MEMO_WAYS; i++)
        if (memos->tags[i] == 0)
            return i;
    return first + memos->written % TM_NATIVE_MEMO_WAYS;
}

struct tm_native_memo *tm_native_memo_write(struct tm_native_record *record, uint64_t tag,
                                            const struct tm_native_walk *walk,
                                            const struct tm_native_entry *cut,
                                            struct tm_fingerprint print)
{
    uint64_t place = choose(&record->memos, tag);
    struct tm_native_memo *memo = &record->memos.memos[place];
    record->memos.tags[place] = 0;
    memo->serial = 0;
    memo->print = print;
    memo->ranks_hash = walk->ranks->hash;
    memo->depth = walk->depth;
    memo->limit = walk->ranks->limit;
    memo->highest = 0;
    memo->n_words = memo->n_evals = 0;
    for (const struct tm_native_entry *entry = record->top; entry > cut; entry--)
        if (!note_frame(memo, walk, entry))
            return NULL;
    if (memo->n_words == 0)
        return NULL;
    memo->serial = ++record->memos.written << TM_NATIVE_MEMOS_LOG2 | place;
    record->memos.tags[place] = tag;
    return memo;
}
