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
 */
#include "payload/native/native.h"

#include <errno.h>
#include <sys/mman.h>

#include "payload/mem.h"
#include "payload/tstate.h"

enum {
    /* Byte offsets: 3.10 PyThreadState.cframe and _cframe.previous, from its DWARF. */
    TSTATE_CFRAME_310 = 48,
    CFRAME_PREVIOUS_310 = 8,
    STACK_MAX_BYTES = 256 << 20,
    SHIM_SEARCH_MAX = 1 << 20, /* frames: against a circle */
};

struct gather {
    struct tm_native_lane *lane;
    const struct tm_native_map *map;
    struct tm_native_item *items;
    uint32_t n_items;
    uint32_t n_native, n_python, limit;
    bool precise; /* look at each Python frame whether Python shows it */
    tm_frame_ref frame;
    uint64_t cframe; /* 3.10, 3.11: the next C frame's record; 0: none */
    uint64_t hash1, hash2;
    /* registers of the frame that is next */
    uint64_t pc, sp, bp;
    uint64_t low, high; /* what may be read of the stack */
};

/* ---- the stack's bounds ---- */

static bool is_mapped(uint64_t low, uint64_t high)
{
    enum { AT_ONCE = 64 };
    unsigned char pages[AT_ONCE];
    int saved_errno = errno;
    bool ok = true;
    low &= ~(uint64_t)(TM_MEM_PAGE_BYTES - 1);
    while (low < high && ok) {
        uint64_t n_bytes =
            high - low < AT_ONCE * TM_MEM_PAGE_BYTES ? high - low : AT_ONCE * TM_MEM_PAGE_BYTES;
        ok = mincore((void *)low, n_bytes, pages) == 0;
        low += n_bytes;
    }
    errno = saved_errno;
    return ok;
}

/* A thread's control block lies at the upper end of the stack that the C library made for it; the
 * main thread's stack ends where the kernel put the arguments. Another stack (of a coroutine, or
 * one that the program gave) is not known. */
static __attribute__((noinline, cold)) bool find_stack(struct tm_native_stack *stack,
                                                       uintptr_t thread, uint64_t sp)
{
    uint64_t high = thread > sp ? thread : 0;
    if (tm_native_main_stack_high > sp && (high == 0 || tm_native_main_stack_high < high))
        high = tm_native_main_stack_high;
    if (high == 0 || high - sp > STACK_MAX_BYTES || !is_mapped(sp, high))
        return false;
    *stack = (struct tm_native_stack){thread, sp, high};
    return true;
}

static bool set_bounds(struct gather *g)
{
    uintptr_t thread = tm_tstate_thread_pointer();
    struct tm_native_stack *stack =
        &g->lane->threads[(thread >> 6 ^ thread >> 12) & (TM_NATIVE_THREADS - 1)];
    if (TM_UNLIKELY(stack->thread != thread || g->sp < stack->low || g->sp >= stack->high) &&
        !find_stack(stack, thread, g->sp))
        return false;
    g->low = g->sp;
    g->high = stack->high;
    return true;
}

TM_ALWAYS_INLINE bool load_stack(const struct gather *g, uint64_t addr, uint64_t *ret)
{
    if (TM_UNLIKELY(addr < g->low || addr > g->high - sizeof(uint64_t) || (addr & 7) != 0))
        return false;
    *ret = *(const uint64_t *)addr;
    return true;
}

/* ---- items ---- */

TM_ALWAYS_INLINE void push(struct gather *g, uint64_t key, tm_frame_ref frame)
{
    /* A native frame's key must not be taken for a Python one's. */
    uint64_t word = frame ? key : ~key;
    g->items[g->n_items++] = (struct tm_native_item){key, frame};
    g->hash1 = tm_hash_mix(g->hash1, word);
    g->hash2 = tm_hash_rotl(g->hash2, 23) + word * TM_HASH_K2;
}

static void push_cut(struct gather *g, enum tm_native_cut cut)
{
    push(g, cut, 0);
}

/* 3.11: bool is_entry is the byte before owner. */
static bool is_entry(tm_frame_ref frame)
{
    return *(const uint8_t *)(frame + (uint32_t)tm_layout.iframe_owner - 1) != 0;
}

/* The Python frames of one C call of the interpreter, or with `all` those of every one. */
static void push_python(struct gather *g, bool all)
{
    while (g->frame != 0 && g->n_python < g->limit) {
        tm_frame_ref frame = g->frame;
        g->frame = tm_frames_back(&tm_layout, frame);
        if (tm_frames_is_shim(&tm_layout, frame)) {
            if (all)
                continue;
            return;
        }
        if (!g->precise || tm_frames_is_complete(frame)) {
            push(g, tm_frames_key(&tm_layout, frame), frame);
            g->n_python++;
        }
        if (!all &&
            (tm_layout.py_version < 0x030b || (tm_layout.py_version == 0x030b && is_entry(frame))))
            return;
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

static uint64_t next_shim(const struct gather *g)
{
    tm_frame_ref frame = g->frame;
    for (uint32_t n = 0; frame != 0 && n < SHIM_SEARCH_MAX; n++) {
        if (tm_frames_is_shim(&tm_layout, frame))
            return frame;
        frame = tm_frames_back(&tm_layout, frame);
    }
    return 0;
}

/* Does the frame between these addresses, which returns to pc, run Python code? */
static __attribute__((noinline, cold)) enum tm_native_role
find_role(const struct gather *g, uint64_t pc, uint64_t frame_low, uint64_t frame_high)
{
    uint64_t record = 0;
    if (frame_low == frame_high)
        return TM_NATIVE_ROLE_UNKNOWN;
    if (tm_layout.py_version < 0x030a)
        return pc - 1 - tm_native_eval_start < tm_native_eval_end - tm_native_eval_start
                   ? TM_NATIVE_ROLE_EVAL
                   : TM_NATIVE_ROLE_C;
    record = tm_layout.py_version < 0x030c ? g->cframe : next_shim(g);
    if (record == 0)
        return TM_NATIVE_ROLE_UNKNOWN; /* cannot tell now; the frame is shown */
    return record - frame_low < frame_high - frame_low ? TM_NATIVE_ROLE_EVAL : TM_NATIVE_ROLE_C;
}

/* ---- the walk ---- */

static __attribute__((noinline, cold)) void learn(struct gather *g, struct tm_native_pc *slot)
{
    const struct tm_native_range *range = tm_native_map_find(g->map, g->pc);
    *slot = (struct tm_native_pc){.pc = g->pc};
    if (range != NULL)
        slot->rule = tm_native_range_rule(range, g->pc);
}

TM_ALWAYS_INLINE struct tm_native_pc *slot_of(const struct tm_native_lane *lane, uint64_t pc)
{
    return &lane->pcs[(pc * TM_HASH_K1) >> 51]; /* 13 bits */
}
_Static_assert(TM_NATIVE_PCS == 1 << 13, "slot_of");

/* From a frame to its caller's registers; false: the stack ends here, *ret_cut says why (0: it is
 * the outermost frame). */
TM_ALWAYS_INLINE bool step(struct gather *g, uint32_t rule, enum tm_native_cut *ret_cut)
{
    uint64_t cfa, at;
    *ret_cut = 0;
    switch (tm_cfi_kind(rule)) {
    case TM_CFI_RSP:
        cfa = g->sp + (uint64_t)tm_cfi_offset_bytes(rule);
        break;
    case TM_CFI_RBP:
        cfa = g->bp + (uint64_t)tm_cfi_offset_bytes(rule);
        break;
    case TM_CFI_RBP_DEREF:
        if (!load_stack(g, g->bp + (uint64_t)tm_cfi_offset_bytes(rule), &cfa)) {
            *ret_cut = TM_NATIVE_CUT_STACK;
            return false;
        }
        break;
    case TM_CFI_END:
        return false;
    default:
        *ret_cut = TM_NATIVE_CUT_NO_TABLE;
        return false;
    }
    int64_t saved = tm_cfi_saved_bytes(rule);
    at = tm_cfi_kind(rule) == TM_CFI_RBP_DEREF ? g->bp : cfa + (uint64_t)saved;
    if (TM_UNLIKELY(cfa <= g->sp || !load_stack(g, cfa - 8, &g->pc)) ||
        ((saved != 0 || tm_cfi_kind(rule) == TM_CFI_RBP_DEREF) && !load_stack(g, at, &g->bp))) {
        *ret_cut = TM_NATIVE_CUT_STACK;
        return false;
    }
    g->sp = cfa;
    return true;
}

/* One C frame: what it runs, or itself. False: nothing more is to be gathered. */
TM_ALWAYS_INLINE bool take_frame(struct gather *g, struct tm_native_pc *slot, uint64_t pc,
                                 uint64_t frame_low, uint64_t frame_high)
{
    if (TM_UNLIKELY(slot->role == TM_NATIVE_ROLE_UNKNOWN))
        slot->role = find_role(g, pc, frame_low, frame_high) & 3;
    if (slot->role == TM_NATIVE_ROLE_EVAL) {
        if (g->cframe != 0)
            g->cframe = next_cframe(g->cframe);
        push_python(g, false);
        return g->n_python < g->limit || g->limit == 0;
    }
    push(g, pc, 0);
    return ++g->n_native < tm_native_depth;
}

static void walk(struct gather *g)
{
    enum tm_native_cut cut = 0;
    for (;;) {
        uint64_t pc = g->pc, low = g->sp;
        struct tm_native_pc *slot = slot_of(g->lane, pc);
        if (TM_UNLIKELY(slot->pc != pc))
            learn(g, slot);
        uint32_t rule = slot->rule;
        bool own = pc - g->map->own_start < g->map->own_end - g->map->own_start;
        bool more = step(g, rule, &cut);
        /* How far a frame goes that cannot be left is not known: it is shown as what it is. */
        if (!own && !take_frame(g, slot, pc, low, more ? g->sp : low))
            return;
        if (!more)
            break;
    }
    if (cut == TM_NATIVE_CUT_NO_TABLE && tm_native_map_find(g->map, g->pc) == NULL)
        cut = TM_NATIVE_CUT_NO_MODULE;
    if (cut != 0)
        push_cut(g, cut);
}

static void gather(struct gather *g, uint64_t tstate, const uint64_t *frame_address)
{
    g->n_items = g->n_native = g->n_python = 0;
    g->hash1 = TM_HASH_K1;
    g->hash2 = TM_HASH_K2;
    g->frame = tstate != 0 && g->limit != 0 ? tm_frames_top(&tm_layout, tstate) : 0;
    g->cframe = first_cframe(tstate);
    g->bp = frame_address[0];
    g->pc = frame_address[1];
    g->sp = (uint64_t)(frame_address + 2);
    if (set_bounds(g))
        walk(g);
    else
        push_cut(g, TM_NATIVE_CUT_STACK);
    push_python(g, true); /* what no C frame was found for, or the native depth cut off */
}

/* ---- from items to a node ---- */

/* 0: memory is short. */
static uint32_t native_site(struct gather *g, uint64_t pc)
{
    struct tm_native_pc *slot = slot_of(g->lane, pc);
    if (slot->pc == pc && slot->site != 0)
        return slot->site;
    pthread_mutex_lock(&tm_intern_lock);
    uint32_t site = tm_native_site_locked(pc);
    pthread_mutex_unlock(&tm_intern_lock);
    if (site == TM_NONE)
        return 0;
    if (slot->pc == pc)
        slot->site = site;
    return site;
}

/* Sites of all items into lane->path, TM_SITE_SKIP where Python does not show the frame. */
static bool resolve(struct gather *g, struct tm_traceback_cache *cache, bool *ret_exact)
{
    for (uint32_t i = 0; i < g->n_items; i++) {
        const struct tm_native_item *item = &g->items[i];
        if (item->frame == 0) {
            g->lane->path[i] = native_site(g, item->key);
            if (g->lane->path[i] == 0)
                return false;
            continue;
        }
        const struct tm_site_slot *slot = tm_traceback_site(cache, item->frame, item->key);
        if (slot == NULL)
            return false;
        if (slot->site == TM_SITE_SKIP || item->key == 0)
            *ret_exact = false;
        g->lane->path[i] =
            slot->site == TM_SITE_SKIP ? TM_SITE_SKIP : slot->site & ~TM_SITE_OWN_BIT;
    }
    return true;
}

static __attribute__((noinline)) bool intern(struct gather *g, struct tm_traceback_cache *cache,
                                             bool *ret_exact, uint32_t *ret_node)
{
    uint32_t node = 0;
    if (!resolve(g, cache, ret_exact))
        return false;
    pthread_mutex_lock(&tm_intern_lock);
    for (uint32_t i = g->n_items; i > 0 && node != TM_NONE; i--)
        if (g->lane->path[i - 1] != TM_SITE_SKIP)
            node = tm_intern_node_locked(node, g->lane->path[i - 1]);
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

__attribute__((noinline)) bool tm_native_traceback(enum tm_lane lane, uint64_t tstate,
                                                   struct tm_traceback *ret)
{
    struct tm_traceback_cache *cache = &tm_traceback_caches[lane];
    const uint64_t *frame_address = __builtin_frame_address(0);
    struct gather g = {
        .lane = &tm_native_lanes[lane],
        .map = tm_native_map,
        .items = tm_native_lanes[lane].items,
        .limit = tm_traceback_limit,
    };
    bool ok, exact = true;
    if (TM_UNLIKELY(top_is_own(cache, tstate, &ok))) {
        cache->own = true;
        return false;
    }
    if (TM_UNLIKELY(!ok))
        return false;
    gather(&g, tstate, frame_address);
    struct tm_walk_slot *walk_slot = &cache->walks[(g.hash1 >> 20 ^ g.hash1) & cache->walk_mask];
    if (TM_LIKELY(walk_slot->hash1 == g.hash1 && walk_slot->hash2 == g.hash2 &&
                  walk_slot->epoch == cache->epoch)) {
        ret->node = walk_slot->node;
    } else {
        if (!intern(&g, cache, &exact, &ret->node))
            return false;
        if (exact) {
            tm_traceback_remember(cache, g.hash1, g.hash2, ret->node);
        } else {
            g.precise = true;
            gather(&g, tstate, frame_address);
            if (!intern(&g, cache, &exact, &ret->node))
                return false;
        }
    }
    ret->counter = tm_store_node_counter(TM_LANE_GIL, ret->node);
    return true;
}
