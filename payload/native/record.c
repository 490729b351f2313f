// SPDX-License-Identifier: MIT
#include "payload/native/record.h"

#include <string.h>

#include "payload/mem.h"

enum {
    /* Native frames that are recorded where nothing is known yet: so many that a stack may shrink
     * for a while before the frames behind are looked up. */
    SLACK = 24,
    POWERS = TM_NATIVE_RECORD_ENTRIES + 1,
};

static const size_t entries_bytes = TM_NATIVE_RECORD_ENTRIES * sizeof(struct tm_native_entry);
/* A whole record may be taken up behind as many that are new. */
static const size_t steps_bytes = 2 * TM_NATIVE_RECORD_ENTRIES * sizeof(struct tm_native_entry);
static const size_t powers_bytes = POWERS * sizeof(struct tm_fingerprint);

bool tm_native_record_init(struct tm_native_record *record)
{
    if (record->entries == NULL)
        record->entries = tm_mem_map_sparse(entries_bytes);
    if (record->steps == NULL)
        record->steps = tm_mem_map_sparse(steps_bytes);
    if (record->powers == NULL)
        record->powers = tm_mem_map_sparse(powers_bytes);
    if (!tm_native_memos_init(&record->memos) || record->entries == NULL || record->steps == NULL ||
        record->powers == NULL)
        return false;
    record->powers[0] = (struct tm_fingerprint){1, 1};
    for (int i = 1; i < POWERS; i++) {
        record->powers[i].hash1 = record->powers[i - 1].hash1 * TM_HASH_K1;
        record->powers[i].hash2 = record->powers[i - 1].hash2 * TM_HASH_K2;
    }
    tm_native_record_clear(record);
    return true;
}

void tm_native_record_done(struct tm_native_record *record)
{
    tm_mem_unmap_sparse(record->entries, entries_bytes);
    tm_mem_unmap_sparse(record->steps, steps_bytes);
    tm_mem_unmap_sparse(record->powers, powers_bytes);
    tm_native_memos_done(&record->memos);
    *record = (struct tm_native_record){0};
}

size_t tm_native_record_resident_bytes(const struct tm_native_record *record)
{
    return tm_mem_resident_bytes(record->entries, entries_bytes, NULL) +
           tm_mem_resident_bytes(record->steps, steps_bytes, NULL) +
           tm_mem_resident_bytes(record->powers, powers_bytes, NULL) +
           tm_native_memos_resident_bytes(&record->memos);
}

static void set_end(struct tm_native_record *record, enum tm_native_end end)
{
    record->end = end;
    record->entries[0] = (struct tm_native_entry){.at = UINT64_MAX, .special = 1};
    record->entries[0].hash.hash1 = (uint64_t)(end + 1) * TM_HASH_K2;
    record->entries[0].hash.hash2 = (uint64_t)(end + 1) * TM_HASH_K1;
}

static void forget_entries(struct tm_native_record *record)
{
    set_end(record, TM_NATIVE_END_MORE);
    record->top = record->entries;
}

void tm_native_record_clear(struct tm_native_record *record)
{
    if (record->entries == NULL)
        return;
    forget_entries(record);
    tm_native_memos_clear(&record->memos);
}

/* ---- addresses ---- */

/* The one that was asked for last is the first of its set, so that most look at one only. */
static __attribute__((noinline)) struct tm_native_pc *find_behind(struct tm_native_record *record,
                                                                  uint64_t pc)
{
    struct tm_native_pc *set = tm_native_pc_set(record, pc), found = {0};
    int way = 1;
    while (way < TM_NATIVE_PC_WAYS - 1 && set[way].pc != pc)
        way++;
    if (set[way].pc == pc)
        found = set[way];
    else
        record->look_up(record->data, pc, &found);
    memmove(set + 1, set, (size_t)way * sizeof(*set));
    set[0] = found;
    return set;
}

TM_ALWAYS_INLINE struct tm_native_pc *find(struct tm_native_record *record, uint64_t pc)
{
    struct tm_native_pc *first = tm_native_pc_set(record, pc);
    return TM_LIKELY(first->pc == pc) ? first : find_behind(record, pc);
}

struct tm_native_pc *tm_native_pc_find(struct tm_native_record *record, uint64_t pc)
{
    return find(record, pc);
}

/* ---- one frame ---- */

TM_ALWAYS_INLINE uint64_t load(uint64_t addr)
{
    return *(const uint64_t *)addr;
}

enum leave { LEFT, ENDS, BROKEN };

/* From a frame to its caller's. ENDS: it has none, *ret_end says why. BROKEN: what was read cannot
 * be. */
TM_ALWAYS_INLINE enum leave leave_frame(const struct tm_native_walk *walk,
                                        const struct tm_native_rule *rule, uint64_t *at,
                                        uint64_t *bp_at, enum tm_native_end *ret_end)
{
    uint64_t next, bp;
    if (TM_LIKELY(rule->kind == TM_CFI_RSP)) {
        next = *at + (uint64_t)(int64_t)rule->cfa_bytes;
    } else if (rule->kind == TM_CFI_RBP) {
        next = load(*bp_at) + (uint64_t)(int64_t)rule->cfa_bytes - sizeof(uint64_t);
    } else if (rule->kind == TM_CFI_RBP_DEREF) {
        bp = load(*bp_at);
        uint64_t pointer = bp + (uint64_t)(int64_t)rule->cfa_bytes;
        if (!tm_native_is_stack(walk, pointer) || !tm_native_is_stack(walk, bp))
            return BROKEN;
        next = load(pointer) - sizeof(uint64_t);
        *bp_at = bp;
    } else {
        *ret_end = rule->kind == TM_CFI_END                 ? TM_NATIVE_END_OUTERMOST
                   : rule->kind == TM_NATIVE_KIND_NO_MODULE ? TM_NATIVE_CUT_NO_MODULE
                                                            : TM_NATIVE_CUT_NO_TABLE;
        return ENDS;
    }
    if (TM_UNLIKELY(next <= *at || !tm_native_is_stack(walk, next)))
        return BROKEN;
    *at = next;
    if (rule->kind != TM_CFI_RBP_DEREF && rule->saved_bytes != 0) {
        *bp_at = next + sizeof(uint64_t) + (uint64_t)(int64_t)rule->saved_bytes;
        if (TM_UNLIKELY(!tm_native_is_stack(walk, *bp_at)))
            return BROKEN;
    }
    return LEFT;
}

TM_ALWAYS_INLINE bool is_shown(const struct tm_native_rule *rule)
{
    return rule->role < TM_NATIVE_ROLE_EVAL;
}

TM_ALWAYS_INLINE bool is_special(const struct tm_native_rule *rule)
{
    return rule->role == TM_NATIVE_ROLE_EVAL || rule->kind != TM_CFI_RSP;
}

/* rbp of an entry lies elsewhere, and so does that of those behind it that have the same. */
static void move_bp(const struct tm_native_record *record, struct tm_native_entry *entry,
                    uint64_t bp_at)
{
    for (; entry > record->entries && entry->bp_at != bp_at; entry--) {
        entry->bp_at = bp_at;
        if (entry->rule.saved_bytes != 0 || entry->rule.kind == TM_CFI_RBP_DEREF)
            break;
    }
}

TM_ALWAYS_INLINE void hash(struct tm_native_entry *entry)
{
    const struct tm_native_entry *below = entry - 1;
    uint64_t word = entry->pc;
    entry->hash = below->hash;
    entry->n_items = below->n_items;
    entry->n_native = below->n_native;
    if (TM_UNLIKELY(entry->rule.role == TM_NATIVE_ROLE_OWN))
        return;
    if (entry->rule.role == TM_NATIVE_ROLE_EVAL)
        word = 1; /* wherever in it: its Python frames are shown */
    else if (entry->rule.role == TM_NATIVE_ROLE_UNKNOWN)
        word = ~word;
    entry->hash.hash1 = below->hash.hash1 * TM_HASH_K1 + (word ^ word << 27) * TM_HASH_K2;
    entry->hash.hash2 = below->hash.hash2 * TM_HASH_K2 + (word ^ word >> 21) * TM_HASH_K1;
    entry->n_items++;
    entry->n_native += is_shown(&entry->rule);
}

/* ---- the walk ---- */

struct state {
    struct tm_native_record *record;
    const struct tm_native_walk *walk;
    struct tm_native_entry *entry; /* the most recent recorded one that is not inwards of `at` */
    struct tm_native_entry *step;  /* behind the last new one */
    struct tm_native_entry
        *changed;                /* the outermost entry whose hash is to be made, or behind all */
    struct tm_native_entry *cut; /* the traceback begins inwards of it; NULL: at its very end */
    uint64_t at, bp_at;
    uint32_t seen; /* native frames that were passed */
    bool limited;  /* the last Python frame was passed */
};

/* ENDS: that was all. */
TM_ALWAYS_INLINE enum leave pass_eval(struct state *s)
{
    enum tm_native_rank rank = tm_native_ranks_next(s->walk->ranks, s->walk->layout);
    if (TM_UNLIKELY(rank == TM_NATIVE_RANK_UNKNOWN))
        return BROKEN;
    s->limited = rank == TM_NATIVE_RANK_LIMIT;
    return s->limited ? ENDS : LEFT;
}

static void end_record(struct state *s, enum tm_native_end end)
{
    set_end(s->record, end);
    s->entry = s->record->entries;
    s->changed = s->entry + 1;
}

/* Looks frames up until a recorded one is met, or as far as is wanted. */
TM_ALWAYS_INLINE bool walk_new(struct state *s)
{
    const struct tm_native_walk *walk = s->walk;
    const struct tm_native_entry *full = s->record->steps + TM_NATIVE_RECORD_ENTRIES;
    for (;;) {
        uint64_t pc = load(s->at);
        while (s->entry->at < s->at)
            s->entry--;
        if (s->entry->at == s->at && s->entry->pc == pc) {
            if (TM_LIKELY(s->record->entries[1].at < walk->high))
                return true;
            end_record(s, TM_NATIVE_END_MORE); /* of another stack */
        }
        const struct tm_native_pc *known = find(s->record, pc);
        struct tm_native_entry *step = s->step++;
        step->at = s->at;
        step->pc = pc;
        step->bp_at = s->bp_at;
        step->rule = known->rule;
        step->special = is_special(&step->rule);
        if (step->rule.role == TM_NATIVE_ROLE_EVAL && s->seen < walk->depth) {
            enum leave passed = pass_eval(s);
            if (TM_UNLIKELY(passed == BROKEN))
                return false;
            if (passed == ENDS) {
                end_record(s, TM_NATIVE_END_MORE);
                return true;
            }
        }
        s->seen += is_shown(&step->rule);
        if (s->seen == walk->depth + SLACK || s->step >= full) {
            end_record(s, TM_NATIVE_END_MORE);
            return s->seen >= walk->depth;
        }
        enum tm_native_end end;
        enum leave left = leave_frame(walk, &step->rule, &s->at, &s->bp_at, &end);
        if (TM_UNLIKELY(left != LEFT)) {
            if (left == ENDS)
                end_record(s, end);
            return left == ENDS;
        }
    }
}

/* A recorded frame has another return address. True: it leads to where the old one did, and what
 * is behind it is as it was recorded. */
static bool replace(struct state *s, struct tm_native_entry *entry)
{
    uint64_t at = entry->at, bp_at = entry->bp_at, pc = load(at);
    const struct tm_native_pc *known = find(s->record, pc);
    enum tm_native_end end;
    if (known->rule.role != entry->rule.role ||
        leave_frame(s->walk, &known->rule, &at, &bp_at, &end) != LEFT || at != entry[-1].at)
        return false;
    entry->pc = pc;
    entry->rule = known->rule;
    entry->special = is_special(&entry->rule);
    move_bp(s->record, entry - 1, bp_at);
    if (entry->rule.role != TM_NATIVE_ROLE_EVAL)
        s->changed = entry; /* the next one is further outwards */
    return true;
}

/* Of a frame that is left by rbp: whether it leads to where it did. */
static bool leads_there(const struct state *s, const struct tm_native_entry *entry)
{
    uint64_t at = entry->at, bp_at = entry->bp_at;
    enum tm_native_end end;
    return tm_native_is_stack(s->walk, bp_at) &&
           leave_frame(s->walk, &entry->rule, &at, &bp_at, &end) == LEFT && at == entry[-1].at &&
           (entry->rule.kind != TM_CFI_RBP_DEREF || entry - 1 == s->record->entries ||
            bp_at == entry[-1].bp_at);
}

enum compared { SAME, DIFFERS, NO_ANSWER };

/* Compares what is recorded with the stack as far as the traceback goes. DIFFERS: not from *ret on,
 * outwards. */
TM_ALWAYS_INLINE enum compared compare(struct state *s, struct tm_native_entry **ret)
{
    int32_t bound = (int32_t)(s->entry->n_native + s->seen - s->walk->depth);
    struct tm_native_entry *entry = s->entry;
    for (;; entry--) {
        if ((int32_t)entry->n_native <= bound) {
            s->cut = entry;
            return SAME;
        }
        *ret = entry;
        if (TM_LIKELY(!entry->special)) {
            if (TM_UNLIKELY(load(entry->at) != entry->pc) && !replace(s, entry))
                return DIFFERS;
            continue;
        }
        if (entry == s->record->entries) {
            s->cut = NULL;
            return s->record->end == TM_NATIVE_END_MORE ? DIFFERS : SAME;
        }
        if (load(entry->at) != entry->pc && !replace(s, entry))
            return DIFFERS;
        if (entry->rule.role == TM_NATIVE_ROLE_EVAL) {
            enum leave passed = pass_eval(s);
            if (TM_UNLIKELY(passed == BROKEN))
                return NO_ANSWER;
            if (passed == ENDS) {
                s->cut = entry - 1;
                return SAME;
            }
        }
        if ((entry->rule.kind == TM_CFI_RBP || entry->rule.kind == TM_CFI_RBP_DEREF) &&
            !leads_there(s, entry)) {
            *ret = entry - 1;
            return DIFFERS;
        }
    }
}

/* Goes on behind what was compared, at the frame that is not as it was recorded. */
static enum leave go_on(struct state *s, struct tm_native_entry *differs)
{
    struct tm_native_entry *known = differs + 1;
    enum tm_native_end end;
    s->seen += (uint32_t)(s->entry->n_native - differs->n_native);
    for (; s->entry > differs; s->entry--)
        *s->step++ = *s->entry;
    s->at = known->at;
    s->bp_at = known->bp_at;
    enum leave left = leave_frame(s->walk, &known->rule, &s->at, &s->bp_at, &end);
    if (left == ENDS)
        end_record(s, end);
    return left;
}

TM_ALWAYS_INLINE bool keep(struct state *s)
{
    struct tm_native_record *record = s->record;
    struct tm_native_entry *entry;
    if (TM_UNLIKELY(s->entry - record->entries + (s->step - record->steps) >=
                    TM_NATIVE_RECORD_ENTRIES))
        return false;
    for (entry = s->changed; entry <= s->entry; entry++)
        hash(entry);
    for (entry = s->entry; s->step > record->steps;) {
        const struct tm_native_entry *step = --s->step;
        entry++;
        entry->at = step->at;
        entry->pc = step->pc;
        entry->bp_at = step->bp_at;
        entry->rule = step->rule;
        entry->special = step->special;
        hash(entry);
    }
    record->top = entry;
    return true;
}

/* False: there is no answer. */
static bool find_way(struct state *s)
{
    struct tm_native_entry *differs;
    for (;;) {
        if (TM_UNLIKELY(!walk_new(s)))
            return false;
        for (;;) {
            s->changed = s->entry + 1;
            if (s->limited || s->seen >= s->walk->depth)
                return true;
            move_bp(s->record, s->entry, s->bp_at);
            enum compared compared = compare(s, &differs);
            if (TM_LIKELY(compared == SAME))
                return true;
            enum leave left = compared == DIFFERS ? go_on(s, differs) : BROKEN;
            if (TM_UNLIKELY(left == BROKEN))
                return false;
            if (left == LEFT)
                break;
        }
    }
}

/* The end of what was walked: the outermost entry that is not in it, NULL where it went to the very
 * end. */
static const struct tm_native_entry *find_cut(const struct state *s)
{
    const struct tm_native_entry *top = s->record->top, *cut = s->record->entries;
    if (s->cut != NULL)
        return s->cut;
    if (s->seen >= s->walk->depth) {
        int32_t bound = (int32_t)(top->n_native - s->walk->depth);
        for (cut = top - s->walk->depth; cut->n_native > bound;)
            cut--;
        return cut;
    }
    return s->limited ? cut : NULL;
}

__attribute__((noinline)) bool tm_native_record_look(struct tm_native_record *record,
                                                     const struct tm_native_walk *walk,
                                                     uint64_t tag, struct tm_fingerprint *ret,
                                                     struct tm_native_memo **ret_memo)
{
    struct state s = {
        .record = record,
        .walk = walk,
        .entry = record->top,
        .step = record->steps,
        .at = walk->at,
        .bp_at = walk->at - sizeof(uint64_t),
    };
    if (TM_UNLIKELY(!find_way(&s) || !keep(&s))) {
        forget_entries(record); /* the memos say what their own words say */
        return false;
    }
    const struct tm_native_entry *top = record->top, *cut = find_cut(&s);
    *ret = top->hash; /* with what entries[0] says, if that is where it ends */
    if (cut != NULL) {
        const struct tm_fingerprint *power = &record->powers[top->n_items - cut->n_items];
        ret->hash1 -= cut->hash.hash1 * power->hash1;
        ret->hash2 -= cut->hash.hash2 * power->hash2;
    }
    *ret_memo = tm_native_memo_write(record, tag, walk, cut != NULL ? cut : record->entries, *ret);
    return true;
}
