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
 * One walk, compiled twice: REPLAY goes along what was met before
 * (payload/native/trie.h) and gives up where something is new; LEARN looks
 * everything up, gathers the frames and keeps the way.
 */
#include "payload/native/native.h"

#include "payload/native/loader.h"
#include "payload/tstate.h"

enum {
    /* Byte offsets: 3.10 PyThreadState.cframe and _cframe.previous, from its DWARF. */
    TSTATE_CFRAME_310 = 48,
    CFRAME_PREVIOUS_310 = 8,
    SHIM_SEARCH_MAX = 1 << 20, /* frames: against a circle */
};

enum how { REPLAY, LEARN };

struct walk {
    struct tm_native_lane *lane;
    struct tm_native_step *step; /* NULL: the tree is full */
    struct tm_fingerprint print; /* of what was walked, without the run that is under way */
    bool kept;                   /* LEARN: the fingerprint stands for what was gathered */
    tm_frame_ref frame;
    uint32_t n_native, n_python, limit;
    /* registers of the frame that is next */
    uint64_t pc, sp, bp;
    uint64_t low, high; /* what may be read of the stack */
    /* LEARN only */
    const struct tm_native_map *map;
    struct tm_native_item *items;
    uint32_t n_items;
    bool precise;    /* look at each Python frame whether Python shows it */
    uint64_t cframe; /* 3.10, 3.11: the next C frame's record; 0: none */
};

TM_ALWAYS_INLINE bool load_stack(const struct walk *w, uint64_t addr, uint64_t *ret)
{
    if (TM_UNLIKELY(addr < w->low || addr > w->high - sizeof(uint64_t) || (addr & 7) != 0))
        return false;
    *ret = *(const uint64_t *)addr;
    return true;
}

/* ---- the way that was met before ---- */

TM_ALWAYS_INLINE void begin_run(struct walk *w)
{
    w->step = &w->lane->trie.steps[w->frame != 0 ? TM_NATIVE_ROOT : TM_NATIVE_ROOT_NO_PYTHON];
}

/* REPLAY: false where this was not met yet. */
TM_ALWAYS_INLINE bool follow(struct walk *w, enum how how, uint64_t word)
{
    if (how == REPLAY)
        w->step = tm_native_trie_child(&w->lane->trie, w->step, word);
    else if (w->step != NULL)
        w->step = tm_native_trie_add(&w->lane->trie, w->step, word);
    return how == LEARN || TM_LIKELY(w->step != NULL);
}

TM_ALWAYS_INLINE void hash(struct walk *w, uint64_t word1, uint64_t word2)
{
    w->print.hash1 = tm_hash_mix(w->print.hash1, word1);
    w->print.hash2 = tm_hash_rotl(w->print.hash2, 23) + word2 * TM_HASH_K2;
}

TM_ALWAYS_INLINE void end_run(struct walk *w, enum how how)
{
    if (how == REPLAY || w->step != NULL)
        hash(w, w->step->hash1, w->step->hash2);
    else
        w->kept = false;
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

/* The Python frames of one C call of the interpreter, or those of every one that is left. REPLAY:
 * false where one has no key. */
TM_ALWAYS_INLINE bool take_python(struct walk *w, enum how how, enum extent extent)
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
        if (how == REPLAY || !w->precise || tm_frames_is_shown(&tm_layout, frame)) {
            uint64_t key = tm_frames_key(&tm_layout, frame);
            if (TM_UNLIKELY(key == 0)) {
                if (how == REPLAY)
                    return false;
                w->kept = false;
            }
            hash(w, key, key);
            if (how == LEARN)
                push(w, key, frame);
            w->n_python++;
        }
        if (extent == OF_ONE_CALL &&
            (py_version < 0x030b || (py_version == 0x030b && is_entry(frame))))
            break;
    }
    return true;
}

/* ---- which C frames run Python code ---- */

static uint64_t next_cframe(uint64_t cframe)
{
    uint64_t offset = CFRAME_PREVIOUS_310;
    if (tm_layout.py_version == 0x030b)
        offset = (uint64_t)tm_layout.cframe_current_frame + 8;
    return tm_frames_load(cframe + offset);
}

static uint64_t first_cframe(uint64_t tstate)
{
    if (tstate == 0)
        return 0;
    if (tm_layout.py_version == 0x030a)
        return tm_frames_load(tstate + TSTATE_CFRAME_310);
    if (tm_layout.py_version == 0x030b)
        return tm_frames_load(tstate + (uint32_t)tm_layout.tstate_cframe);
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

static void look_up(const struct walk *w, uint64_t pc, struct tm_native_pc *slot)
{
    const struct tm_native_range *range = tm_native_map_find(w->map, pc);
    if (range != NULL && w->lane->stamp != w->map->stamp &&
        !tm_native_range_is_there(w->map, range))
        range = NULL; /* something else may lie there now */
    *slot = (struct tm_native_pc){.pc = pc, .rule = {.kind = TM_NATIVE_KIND_NO_MODULE}};
    if (range != NULL)
        slot->rule = tm_native_rule_unpack(tm_native_range_rule(range, pc));
    if (pc - w->map->own_start < w->map->own_end - w->map->own_start)
        slot->rule.role = TM_NATIVE_ROLE_OWN;
}

static struct tm_native_pc *slot_of(const struct walk *w, uint64_t pc)
{
    struct tm_native_pc *slot = &w->lane->pcs[(pc * TM_HASH_K1) >> 51]; /* 13 bits */
    if (slot->pc != pc)
        look_up(w, pc, slot);
    return slot;
}
_Static_assert(TM_NATIVE_PCS == 1 << 13, "slot_of");

/* ---- the walk ---- */

/* From a frame to its caller's registers; false: the stack ends here, *ret_cut says why (0: it is
 * the outermost frame). */
TM_ALWAYS_INLINE bool leave_frame(struct walk *w, const struct tm_native_rule *rule,
                                  enum tm_native_cut *ret_cut)
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
        *ret_cut = 0;
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
static __attribute__((noinline)) enum tm_native_role
learn_role(struct walk *w, struct tm_native_pc *slot, uint64_t pc, uint64_t low, bool more)
{
    enum tm_native_role role = slot->rule.role;
    if (role == TM_NATIVE_ROLE_UNKNOWN && more)
        role = slot->rule.role = (uint8_t)find_role(w, pc, low, w->sp);
    if (role == TM_NATIVE_ROLE_EVAL && w->cframe != 0)
        w->cframe = next_cframe(w->cframe);
    if (role == TM_NATIVE_ROLE_UNKNOWN)
        role = TM_NATIVE_ROLE_C;
    /* A stack that broke off where it need not have says nothing of other ones. */
    if (!more && slot->rule.kind >= TM_CFI_RSP && slot->rule.kind <= TM_CFI_RBP_DEREF)
        w->kept = false;
    else if (w->step != NULL) {
        w->step->rule = slot->rule;
        w->step->rule.role = (uint8_t)role;
    }
    return role;
}

/* REPLAY: false where something was not met yet. */
TM_ALWAYS_INLINE bool take_native(struct walk *w, enum how how)
{
    for (;;) {
        uint64_t pc = w->pc, low = w->sp;
        enum tm_native_cut cut;
        enum tm_native_role role;
        bool more;
        if (!follow(w, how, pc))
            return false;
        if (how == REPLAY) {
            role = w->step->rule.role;
            more = leave_frame(w, &w->step->rule, &cut);
        } else {
            struct tm_native_pc *slot = slot_of(w, pc);
            more = leave_frame(w, &slot->rule, &cut);
            role = learn_role(w, slot, pc, low, more);
        }
        if (role == TM_NATIVE_ROLE_EVAL) {
            end_run(w, how);
            if (!take_python(w, how, OF_ONE_CALL))
                return false;
            if (w->n_python >= w->limit && w->limit != 0)
                return true;
            begin_run(w);
        } else if (role == TM_NATIVE_ROLE_C) {
            if (how == LEARN)
                push(w, pc, 0);
            if (++w->n_native == tm_native_depth)
                break;
        }
        if (TM_LIKELY(more))
            continue;
        if (cut != 0 && how == LEARN)
            push(w, cut, 0);
        if (cut != 0 && !follow(w, how, cut))
            return false;
        break;
    }
    end_run(w, how);
    return true;
}

/* REPLAY: false where something was not met yet. */
TM_ALWAYS_INLINE bool take_stack(struct walk *w, enum how how, uint64_t tstate,
                                 struct tm_native_regs regs)
{
    w->n_native = w->n_python = 0;
    w->limit = tm_traceback_limit;
    w->frame = tstate != 0 && w->limit != 0 ? tm_frames_top(&tm_layout, tstate) : 0;
    w->bp = regs.bp;
    w->pc = regs.pc;
    w->low = w->sp = regs.sp;
    w->print = (struct tm_fingerprint){TM_HASH_K1, TM_HASH_K2};
    begin_run(w);
    if (TM_LIKELY(
            tm_native_stack_find(w->lane->threads, tm_tstate_thread_pointer(), w->sp, &w->high))) {
        if (!take_native(w, how))
            return false;
    } else {
        if (how == LEARN)
            push(w, TM_NATIVE_CUT_STACK, 0);
        hash(w, TM_NATIVE_CUT_STACK, TM_NATIVE_CUT_STACK);
    }
    /* What no C frame was found for, or the native depth cut off. */
    return w->frame == 0 || take_python(w, how, ALL);
}

static void gather(struct walk *w, uint64_t tstate, struct tm_native_regs regs, bool precise)
{
    w->precise = precise;
    w->kept = true;
    w->n_items = 0;
    w->cframe = first_cframe(tstate);
    take_stack(w, LEARN, tstate, regs);
}

/* ---- from items to a node ---- */

/* 0: memory is short. */
static uint32_t native_site(struct walk *w, uint64_t pc)
{
    struct tm_native_pc *slot = pc < TM_NATIVE_CUTS ? NULL : slot_of(w, pc);
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
    if (lane->trie.used == TM_NATIVE_STEPS)
        tm_native_trie_forget(&lane->trie);
}

static bool learn(struct tm_native_lane *lane, struct tm_traceback_cache *cache, uint64_t tstate,
                  struct tm_native_regs regs, struct tm_traceback *ret)
{
    struct walk w = {.lane = lane, .map = tm_native_map, .items = lane->items};
    bool ok, exact = true;
    if (TM_UNLIKELY(top_is_own(cache, tstate, &ok))) {
        cache->own = true;
        return false;
    }
    if (TM_UNLIKELY(!ok))
        return false;
    look_around(lane, cache);
    gather(&w, tstate, regs, false);
    if (!intern(&w, cache, &exact, &ret->node))
        return false;
    if (exact && w.kept) {
        tm_traceback_remember(cache, w.print, ret->node);
    } else if (!exact) {
        gather(&w, tstate, regs, true);
        if (!intern(&w, cache, &exact, &ret->node))
            return false;
    }
    ret->counter = tm_store_node_counter(TM_LANE_GIL, ret->node);
    return true;
}

TM_ALWAYS_INLINE bool replay(struct tm_native_lane *lane, const struct tm_traceback_cache *cache,
                             uint64_t tstate, struct tm_native_regs regs, struct tm_traceback *ret)
{
    struct walk w = {.lane = lane};
    if (TM_UNLIKELY(lane->stamp != tm_native_loader_stamp()) ||
        !take_stack(&w, REPLAY, tstate, regs))
        return false;
    ret->node = tm_traceback_cached(cache, w.print);
    if (TM_UNLIKELY(ret->node == TM_NONE))
        return false;
    ret->counter = tm_store_node_counter(TM_LANE_GIL, ret->node);
    return true;
}

__attribute__((noinline)) bool tm_native_known(uint64_t tstate, struct tm_native_regs regs,
                                               struct tm_traceback *ret)
{
    return replay(&tm_native_lanes[TM_LANE_GIL], &tm_traceback_caches[TM_LANE_GIL], tstate, regs,
                  ret);
}

__attribute__((noinline)) bool tm_native_traceback_of(enum tm_lane lane, uint64_t tstate,
                                                      struct tm_native_regs regs,
                                                      struct tm_traceback *ret)
{
    struct tm_traceback_cache *cache = &tm_traceback_caches[lane];
    return replay(&tm_native_lanes[lane], cache, tstate, regs, ret) ||
           learn(&tm_native_lanes[lane], cache, tstate, regs, ret);
}

__attribute__((noinline)) bool tm_native_traceback(enum tm_lane lane, uint64_t tstate,
                                                   struct tm_traceback *ret)
{
    return tm_native_traceback_of(lane, tstate, tm_native_regs_at(__builtin_frame_address(0)), ret);
}
