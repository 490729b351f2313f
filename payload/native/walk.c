// SPDX-License-Identifier: MIT
/*
 * The stack of the calling thread, native frames and Python's in one order:
 * what the hooks run. Reads this thread's stack between its own frame and the
 * stack's end, the published unwind tables and the interpreter's frames.
 *
 * A C frame that runs Python code is shown as the Python frames that it runs.
 * Which C frame that is, the interpreter's own records on the stack tell: every
 * call of _PyEval_EvalFrameDefault has a record among its local variables (up to
 * 3.9 none: there the address decides).
 *   3.10         struct _cframe, chained from tstate->cframe (Python/ceval.c)
 *   3.11         _PyCFrame, the same way; one call runs the frames up to the
 *                one with is_entry set (Include/internal/pycore_frame.h)
 *   3.12 on      the shim frame in the chain of Python frames; one call runs
 *                the frames up to it
 * An address belongs to one function, so this is looked up once for each.
 *
 * This is what each address and each stack is looked up with once. Later walks
 * go along the records of both kinds of frames (payload/native/record.h,
 * payload/stack.h), whose fingerprint leads to the traceback.
 */
#include "payload/native/native.h"

#include "payload/layout_table.h"
#include "payload/native/loader.h"
#include "payload/tstate.h"

enum {
    /* Byte offsets: 3.10 PyThreadState.cframe and _cframe.previous, from its DWARF. */
    TSTATE_CFRAME_310 = 48,
    CFRAME_PREVIOUS_310 = 8,
    SHIM_SEARCH_MAX = 1 << 20, /* frames: against a circle */
};

struct walk {
    struct tm_native_lane *lane;
    const struct tm_native_map *map;
    struct tm_native_item *items;
    uint32_t n_items;
    uint32_t n_native, n_python, limit;
    bool kept;    /* the same words in the same places mean the same frames */
    bool learned; /* the role of an address was not known before */
    tm_frame_ref frame;
    uint64_t cframe; /* 3.10, 3.11: the next C frame's record; 0: none */
    /* registers of the frame that is next */
    uint64_t pc, sp, bp;
    uint64_t low, high; /* what may be read of the stack */
};

static bool load_stack(const struct walk *w, uint64_t addr, uint64_t *ret)
{
    if (addr < w->low || addr > w->high - sizeof(uint64_t) || (addr & 7) != 0)
        return false;
    *ret = *(const uint64_t *)addr;
    return true;
}

static void push(struct walk *w, uint64_t key, tm_frame_ref frame)
{
    w->items[w->n_items++] = (struct tm_native_item){key, frame};
}

/* ---- Python's frames ---- */

/* 3.11: bool is_entry is the byte before owner. */
TM_ALWAYS_INLINE bool is_entry(tm_frame_ref frame)
{
    return *(const uint8_t *)(frame + (uint32_t)tm_layout.iframe_owner - 1) != 0;
}

enum extent { OF_ONE_CALL, ALL };

/* The Python frames of one C call of the interpreter, or those of every one that is left. */
static void take_python(struct walk *w, enum extent extent)
{
    uint32_t py_version = tm_layout.py_version;
    while (w->frame != 0 && w->n_python < w->limit) {
        tm_frame_ref frame = w->frame;
        w->frame = tm_frames_back(&tm_layout, frame);
        if (tm_frames_is_shim(&tm_layout, frame)) {
            if (extent == ALL)
                continue;
            break;
        }
        if (tm_frames_is_shown(&tm_layout, frame)) {
            push(w, tm_frames_key(&tm_layout, frame), frame);
            w->n_python++;
        }
        if (extent == OF_ONE_CALL &&
            (py_version < 0x030b || (py_version == 0x030b && is_entry(frame))))
            break;
    }
}

/* ---- which C frames run Python code ---- */

static uint64_t next_cframe(uint64_t cframe)
{
    uint64_t offset = CFRAME_PREVIOUS_310;
    if (tm_layout.py_version == 0x030b)
        offset = (uint64_t)tm_layout.cframe_current_frame + 8;
    return tm_frames_load(cframe + offset);
}

TM_ALWAYS_INLINE uint64_t first_cframe(const struct tm_layout *layout, uint64_t tstate)
{
    if (tstate == 0)
        return 0;
    if (layout->py_version == 0x030a)
        return tm_frames_load(tstate + TSTATE_CFRAME_310);
    if (layout->py_version == 0x030b)
        return tm_frames_load(tstate + (uint32_t)layout->tstate_cframe);
    return 0;
}

static uint64_t next_shim(const struct walk *w)
{
    tm_frame_ref frame = w->frame;
    for (uint32_t n = 0; frame != 0 && n < SHIM_SEARCH_MAX; n++) {
        if (tm_frames_is_shim(&tm_layout, frame))
            return frame;
        frame = tm_frames_back(&tm_layout, frame);
    }
    return 0;
}

/* Does the frame between these addresses, which returns to pc, run Python code? */
static enum tm_native_role find_role(const struct walk *w, uint64_t pc, uint64_t frame_low,
                                     uint64_t frame_high)
{
    uint64_t record = 0;
    if (tm_layout.py_version < 0x030a)
        return pc - 1 - tm_native_eval_start < tm_native_eval_end - tm_native_eval_start
                   ? TM_NATIVE_ROLE_EVAL
                   : TM_NATIVE_ROLE_C;
    record = tm_layout.py_version < 0x030c ? w->cframe : next_shim(w);
    if (record == 0)
        return TM_NATIVE_ROLE_UNKNOWN; /* cannot tell now; the frame is shown */
    return record - frame_low < frame_high - frame_low ? TM_NATIVE_ROLE_EVAL : TM_NATIVE_ROLE_C;
}

/* ---- what is known of an address ---- */

void tm_native_look_up(void *data, uint64_t pc, struct tm_native_pc *ret)
{
    const struct tm_native_lane *lane = data;
    const struct tm_native_map *map = tm_native_map;
    const struct tm_native_range *range = tm_native_map_find(map, pc);
    if (range != NULL && lane->stamp != map->stamp && !tm_native_range_is_there(map, range))
        range = NULL; /* something else may lie there now */
    *ret = (struct tm_native_pc){.pc = pc, .rule = {.kind = TM_NATIVE_KIND_NO_MODULE}};
    if (range != NULL)
        ret->rule = tm_native_rule_unpack(tm_native_range_rule(range, pc));
    if (pc - map->own_start < map->own_end - map->own_start)
        ret->rule.role = TM_NATIVE_ROLE_OWN;
}

/* ---- the walk ---- */

/* From a frame to its caller's registers; false: the stack ends here, *ret_cut says why. */
static bool leave_frame(struct walk *w, const struct tm_native_rule *rule,
                        enum tm_native_end *ret_cut)
{
    uint64_t cfa, at;
    *ret_cut = TM_NATIVE_CUT_STACK;
    switch (rule->kind) {
    case TM_CFI_RSP:
        cfa = w->sp + (uint64_t)(int64_t)rule->cfa_bytes;
        break;
    case TM_CFI_RBP:
        cfa = w->bp + (uint64_t)(int64_t)rule->cfa_bytes;
        break;
    case TM_CFI_RBP_DEREF:
        if (!load_stack(w, w->bp + (uint64_t)(int64_t)rule->cfa_bytes, &cfa))
            return false;
        break;
    case TM_CFI_END:
        *ret_cut = TM_NATIVE_END_OUTERMOST;
        return false;
    case TM_NATIVE_KIND_NO_MODULE:
        *ret_cut = TM_NATIVE_CUT_NO_MODULE;
        return false;
    default:
        *ret_cut = TM_NATIVE_CUT_NO_TABLE;
        return false;
    }
    at = rule->kind == TM_CFI_RBP_DEREF ? w->bp : cfa + (uint64_t)(int64_t)rule->saved_bytes;
    if (TM_UNLIKELY(cfa <= w->sp || !load_stack(w, cfa - 8, &w->pc)) ||
        ((rule->saved_bytes != 0 || rule->kind == TM_CFI_RBP_DEREF) && !load_stack(w, at, &w->bp)))
        return false;
    w->sp = cfa;
    return true;
}

/* What the frame is that was just left; with `more` false it could not be: how far it goes is not
 * known, and it is shown as what it is. So is one for which no record is left: outwards of the last
 * Python frame nothing runs Python code. */
static enum tm_native_role learn_role(struct walk *w, struct tm_native_pc *slot, uint64_t pc,
                                      uint64_t low, bool more)
{
    enum tm_native_role role = slot->rule.role;
    if (role == TM_NATIVE_ROLE_UNKNOWN && more) {
        role = find_role(w, pc, low, w->sp);
        slot->rule.role = (uint8_t)role;
        w->learned |= role != TM_NATIVE_ROLE_UNKNOWN;
    }
    if (role == TM_NATIVE_ROLE_EVAL && w->cframe != 0)
        w->cframe = next_cframe(w->cframe);
    if (role == TM_NATIVE_ROLE_UNKNOWN)
        role = TM_NATIVE_ROLE_C;
    /* A stack that broke off where it need not have says nothing of other ones. */
    if (!more && slot->rule.kind >= TM_CFI_RSP && slot->rule.kind <= TM_CFI_RBP_DEREF)
        w->kept = false;
    return role;
}

static void take_native(struct walk *w)
{
    for (;;) {
        uint64_t pc = w->pc, low = w->sp;
        enum tm_native_end cut;
        struct tm_native_pc *slot = tm_native_pc_find(&w->lane->record, pc);
        bool more = leave_frame(w, &slot->rule, &cut);
        enum tm_native_role role = learn_role(w, slot, pc, low, more);
        if (role == TM_NATIVE_ROLE_EVAL) {
            take_python(w, OF_ONE_CALL);
            if (w->n_python >= w->limit && w->limit != 0)
                return;
        } else if (role == TM_NATIVE_ROLE_C) {
            push(w, pc, 0);
            if (++w->n_native == tm_native_depth)
                return;
        }
        if (!more) {
            if (cut != TM_NATIVE_END_OUTERMOST)
                push(w, (uint64_t)cut, 0);
            return;
        }
    }
}

static void gather(struct walk *w, uint64_t tstate, const uint64_t *frame_address)
{
    w->kept = true;
    w->limit = tm_traceback_limit;
    w->frame = tstate != 0 && w->limit != 0 ? tm_frames_top(&tm_layout, tstate) : 0;
    w->cframe = first_cframe(&tm_layout, tstate);
    w->bp = frame_address[0];
    w->pc = frame_address[1];
    w->low = w->sp = (uint64_t)(frame_address + 2);
    if (tm_native_stack_find(&w->lane->main_stack, tm_tstate_thread_pointer(), w->sp, &w->high))
        take_native(w);
    else
        push(w, TM_NATIVE_CUT_STACK, 0);
    /* What no C frame was found for, or the native depth cut off. */
    take_python(w, ALL);
}

/* ---- from items to a node ---- */

/* 0: memory is short. */
static uint32_t native_site(struct walk *w, uint64_t pc)
{
    struct tm_native_pc *slot =
        pc < TM_NATIVE_CUTS ? NULL : tm_native_pc_find(&w->lane->record, pc);
    if (slot != NULL && slot->site != 0)
        return slot->site;
    pthread_mutex_lock(&tm_intern_lock);
    uint32_t site = tm_native_site_locked(
        pc, slot == NULL || slot->rule.kind != TM_NATIVE_KIND_NO_MODULE ? w->map : NULL);
    pthread_mutex_unlock(&tm_intern_lock);
    if (site == TM_NONE)
        return 0;
    if (slot != NULL)
        slot->site = site;
    return site;
}

/* Sites of all items into lane->path, TM_SITE_SKIP where Python does not show the frame. */
static bool resolve(struct walk *w, struct tm_traceback_cache *cache, bool *ret_exact)
{
    for (uint32_t i = 0; i < w->n_items; i++) {
        const struct tm_native_item *item = &w->items[i];
        if (item->frame == 0) {
            w->lane->path[i] = native_site(w, item->key);
            if (w->lane->path[i] == 0)
                return false;
            continue;
        }
        const struct tm_site_slot *slot = tm_traceback_site(cache, item->frame, item->key);
        if (slot == NULL)
            return false;
        if (slot->site == TM_SITE_SKIP || item->key == 0)
            *ret_exact = false;
        w->lane->path[i] =
            slot->site == TM_SITE_SKIP ? TM_SITE_SKIP : slot->site & ~TM_SITE_OWN_BIT;
    }
    return true;
}

static bool intern(struct walk *w, struct tm_traceback_cache *cache, bool *ret_exact,
                   uint32_t *ret_node)
{
    uint32_t node = 0;
    if (!resolve(w, cache, ret_exact))
        return false;
    pthread_mutex_lock(&tm_intern_lock);
    for (uint32_t i = w->n_items; i > 0 && node != TM_NONE; i--)
        if (w->lane->path[i - 1] != TM_SITE_SKIP)
            node = tm_intern_node_locked(node, w->lane->path[i - 1]);
    pthread_mutex_unlock(&tm_intern_lock);
    *ret_node = node;
    return node != TM_NONE;
}

/* True where the most recent Python frame is the tool's own. False with *ret_ok false: memory is
 * short. */
static bool top_is_own(struct tm_traceback_cache *cache, uint64_t tstate, bool *ret_ok)
{
    *ret_ok = true;
    if (tstate == 0 || tm_traceback_limit == 0)
        return false;
    for (tm_frame_ref frame = tm_frames_top(&tm_layout, tstate); frame != 0;
         frame = tm_frames_back(&tm_layout, frame)) {
        if (tm_frames_is_shim(&tm_layout, frame))
            continue;
        const struct tm_site_slot *slot =
            tm_traceback_site(cache, frame, tm_frames_key(&tm_layout, frame));
        *ret_ok = slot != NULL;
        if (slot == NULL || slot->site < TM_SITE_OWN_BIT)
            return false;
        if (slot->site != TM_SITE_SKIP)
            return true;
    }
    return false;
}

/* Everything that the lane knows of addresses goes where it may not be true any more. */
static void look_around(struct tm_native_lane *lane, struct tm_traceback_cache *cache)
{
    uint64_t stamp = tm_native_loader_stamp();
    if (lane->stamp != stamp) {
        tm_native_lane_forget(lane);
        tm_traceback_catch_up(cache);
        lane->stamp = stamp;
    }
}

/* ---- along the records ---- */

/* What is met on the way to a traceback. */
struct look {
    struct tm_fingerprint python;
    uint64_t tag, serial; /* of the memo; 0: there is none */
    uint64_t ranks_hash;
    struct tm_fingerprint print;
    const struct tm_native_note *note; /* it has the traceback, print is not set; NULL: none */
};

/* Nothing known of this stack holds: goes through it. */
static __attribute__((noinline)) bool look_anew(struct tm_native_lane *lane,
                                                const struct tm_layout *layout, uint64_t at,
                                                uint64_t high, uint64_t tag,
                                                struct tm_native_ranks ranks,
                                                struct tm_fingerprint *ret, struct look *ret_look)
{
    struct tm_native_walk walk = {at, high, tm_native_depth, &ranks, layout};
    struct tm_native_memo *memo = NULL;
    if (!tm_native_record_look(&lane->record, &walk, tag, ret, &memo))
        return false;
    ret_look->ranks_hash = ranks.hash;
    ret_look->serial = memo != NULL ? memo->serial : 0;
    return true;
}

/* Goes on from the Python frames. */
TM_ALWAYS_INLINE bool look_at_native(struct tm_native_lane *lane,
                                     const struct tm_traceback_cache *cache,
                                     const struct tm_layout *layout, const uint64_t *frame_address,
                                     struct tm_native_ranks ranks, struct look *ret)
{
    struct tm_fingerprint native = {TM_NATIVE_CUT_STACK, TM_NATIVE_CUT_STACK};
    uint64_t at = (uint64_t)(frame_address + 1), high;
    ret->serial = 0;
    ret->ranks_hash = ranks.hash;
    ret->note = NULL;
    if (TM_LIKELY(tm_native_stack_find(&lane->main_stack, tm_tstate_thread_pointer(),
                                       at + sizeof(uint64_t), &high))) {
        const struct tm_native_memos *memos = &lane->record.memos;
        ret->tag = tm_native_memo_tag(&lane->record, at, high);
        const struct tm_native_memo *memo =
            tm_native_memo_find(memos, ret->tag, at, high, tm_native_depth, ranks, layout);
        if (TM_LIKELY(memo != NULL)) {
            const struct tm_native_note *note =
                tm_native_note_of(memos, ret->tag, ret->python.hash1);
            if (tm_native_note_memo(memos, note, ret->python, cache->epoch) == memo) {
                ret->note = note;
                return true;
            }
            ret->serial = memo->serial;
            ret->ranks_hash = memo->ranks_hash;
            native = memo->print;
        } else if (TM_UNLIKELY(!look_anew(lane, layout, at, high, ret->tag, ranks, &native, ret))) {
            return false;
        }
    }
    ret->print.hash1 = tm_hash_mix(ret->python.hash1 ^ ret->ranks_hash, native.hash1);
    ret->print.hash2 =
        tm_hash_rotl(ret->python.hash2, 23) + native.hash2 * TM_HASH_K2 + ret->ranks_hash;
    return true;
}

/* The fingerprint of the traceback. False: it has none, or something was not met yet. */
TM_ALWAYS_INLINE bool look(struct tm_native_lane *lane, struct tm_traceback_cache *cache,
                           const struct tm_layout *layout, tm_stack_follow_fn *follow,
                           uint64_t tstate, const uint64_t *frame_address, struct look *ret)
{
    struct tm_native_ranks ranks = {.limit = tm_traceback_limit};
    tm_frame_ref frame = tstate != 0 && ranks.limit != 0 ? tm_frames_top(layout, tstate) : 0;
    ret->python = (struct tm_fingerprint){TM_HASH_K1, TM_HASH_K2};
    if (TM_UNLIKELY(lane->stamp != tm_native_loader_stamp()))
        return false;
    if (ranks.limit == 1 && TM_LIKELY(frame != 0) && tm_frames_is_shown(layout, frame)) {
        ret->python = tm_native_one_frame(layout, frame);
        if (TM_UNLIKELY(ret->python.hash1 == 0))
            return false;
        return look_at_native(lane, cache, layout, frame_address,
                              (struct tm_native_ranks){.limit = 1, .n_shown = 1}, ret);
    }
    if (TM_LIKELY(frame != 0)) {
        const struct tm_stack *stack = &cache->stack;
        ranks.last = tm_stack_look(&cache->stack, layout, follow, frame, ranks.limit);
        if (TM_UNLIKELY(ranks.last == NULL))
            return false;
        ret->python = tm_stack_fingerprint(stack, ranks.last);
        ranks.stack = stack;
        ranks.from = stack->top;
        ranks.n_shown = stack->top->count;
        ranks.cframe = first_cframe(layout, tstate);
    }
    return look_at_native(lane, cache, layout, frame_address, ranks, ret);
}

/* From the caches alone. */
TM_ALWAYS_INLINE bool known(struct tm_native_lane *lane, struct tm_traceback_cache *cache,
                            const struct tm_layout *layout, tm_stack_follow_fn *follow,
                            uint64_t tstate, const uint64_t *frame_address,
                            struct tm_traceback *ret)
{
    struct look found;
    if (TM_UNLIKELY(!look(lane, cache, layout, follow, tstate, frame_address, &found)))
        return false;
    if (found.note != NULL) {
        *ret = (struct tm_traceback){found.note->node, found.note->counter};
        return true;
    }
    ret->node = tm_traceback_cached(cache, found.print);
    if (TM_UNLIKELY(ret->node == TM_NONE))
        return false;
    ret->counter = tm_store_node_counter(TM_LANE_GIL, ret->node);
    if (TM_LIKELY(found.serial != 0))
        *tm_native_note_of(&lane->record.memos, found.tag, found.python.hash1) =
            (struct tm_native_note){found.python, found.serial, ret->counter, cache->epoch,
                                    ret->node};
    return true;
}

static __attribute__((noinline)) bool learn(struct tm_native_lane *lane,
                                            struct tm_traceback_cache *cache, uint64_t tstate,
                                            const uint64_t *frame_address, struct tm_traceback *ret)
{
    struct walk w = {.lane = lane, .map = tm_native_map, .items = lane->items};
    struct look found;
    bool ok, exact = true;
    if (TM_UNLIKELY(top_is_own(cache, tstate, &ok))) {
        cache->own = true;
        return false;
    }
    if (TM_UNLIKELY(!ok))
        return false;
    look_around(lane, cache);
    gather(&w, tstate, frame_address);
    if (w.learned)
        tm_native_record_clear(&lane->record);
    if (!intern(&w, cache, &exact, &ret->node))
        return false;
    if (exact && w.kept &&
        look(lane, cache, &tm_layout, tm_stack_follow_any, tstate, frame_address, &found))
        tm_traceback_remember(cache, found.print, ret->node);
    ret->counter = tm_store_node_counter(TM_LANE_GIL, ret->node);
    return true;
}

/* ---- for each layout ---- */

#define DEFINE_KNOWN(suffix, layout)                                                               \
    static __attribute__((noinline)) struct tm_stack_entry *follow_##suffix(                       \
        struct tm_stack *stack, tm_frame_ref frame, uint32_t limit)                                \
    {                                                                                              \
        return tm_stack_follow(stack, layout, frame, limit);                                       \
    }                                                                                              \
    static bool known_##suffix(uint64_t tstate, const void *frame_address,                         \
                               struct tm_traceback *ret)                                           \
    {                                                                                              \
        return known(&tm_native_lanes[TM_LANE_GIL], &tm_traceback_caches[TM_LANE_GIL], layout,     \
                     follow_##suffix, tstate, frame_address, ret);                                 \
    }

DEFINE_KNOWN(any, &tm_layout)
DEFINE_KNOWN(v3_6, &tm_layout_table[TM_LAYOUT_3_6])
DEFINE_KNOWN(v3_7, &tm_layout_table[TM_LAYOUT_3_7])
DEFINE_KNOWN(v3_8, &tm_layout_table[TM_LAYOUT_3_8])
DEFINE_KNOWN(v3_10, &tm_layout_table[TM_LAYOUT_3_10])
DEFINE_KNOWN(v3_11, &tm_layout_table[TM_LAYOUT_3_11])
DEFINE_KNOWN(v3_12, &tm_layout_table[TM_LAYOUT_3_12])
DEFINE_KNOWN(v3_13, &tm_layout_table[TM_LAYOUT_3_13])

tm_native_known_fn *tm_native_known = known_any;

void tm_native_choose_known(void)
{
    static tm_native_known_fn *const rows[TM_LAYOUT_TABLE_COUNT] = {
        [TM_LAYOUT_3_6] = known_v3_6,   [TM_LAYOUT_3_7] = known_v3_7,
        [TM_LAYOUT_3_8] = known_v3_8,   [TM_LAYOUT_3_9] = known_v3_8, /* the same frames */
        [TM_LAYOUT_3_10] = known_v3_10, [TM_LAYOUT_3_11] = known_v3_11,
        [TM_LAYOUT_3_12] = known_v3_12, [TM_LAYOUT_3_13] = known_v3_13,
    };
    bool has_row = tm_layout_table_index >= 0 && rows[tm_layout_table_index] != NULL;
    tm_native_known = has_row ? rows[tm_layout_table_index] : known_any;
}

__attribute__((noinline)) bool tm_native_traceback_of(enum tm_lane lane, uint64_t tstate,
                                                      const void *frame_address,
                                                      struct tm_traceback *ret)
{
    struct tm_traceback_cache *cache = &tm_traceback_caches[lane];
    return known(&tm_native_lanes[lane], cache, &tm_layout, tm_stack_follow_any, tstate,
                 frame_address, ret) ||
           learn(&tm_native_lanes[lane], cache, tstate, frame_address, ret);
}

__attribute__((noinline)) bool tm_native_traceback(enum tm_lane lane, uint64_t tstate,
                                                   struct tm_traceback *ret)
{
    return tm_native_traceback_of(lane, tstate, __builtin_frame_address(0), ret);
}
