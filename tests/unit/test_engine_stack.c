// SPDX-License-Identifier: MIT
/*
 * The record of frames (payload/stack.h) beside a walk that remembers nothing:
 * the same fingerprint where, and only where, the same frames are shown at the
 * same places. The frames are made here, for a CPython with frame objects and for
 * one without.
 */
#include <glib.h>
#include <pthread.h>
#include <string.h>

#include "payload/layout.h"
#include "payload/stack.h"
#include "payload/tracer.h"

enum { CODES = 24, CODE_BYTES = 256, FIRST_TRACEABLE = 3, OWNED_BY_THREAD = 0 };

/* Both kinds of frame in one: _PyInterpreterFrame, and PyFrameObject for the first five fields. */
struct frame {
    uint64_t code, back, instr;
    uint32_t lasti;
    uint8_t owner;
} __attribute__((aligned(16)));

struct code {
    int32_t first_traceable;
    uint8_t units[CODE_BYTES];
} __attribute__((aligned(8)));

static struct code codes[CODES];

static const struct tm_layout with_objects = {
    .py_version = 0x0308,
    .tstate_frame = 0,
    .tstate_cframe = TM_NO_FIELD,
    .tstate_current_frame = TM_NO_FIELD,
    .frame_back = offsetof(struct frame, back),
    .frame_code = offsetof(struct frame, code),
    .frame_lasti = offsetof(struct frame, lasti),
};

static const struct tm_layout without_objects = {
    .py_version = 0x030d,
    .tstate_frame = TM_NO_FIELD,
    .tstate_cframe = TM_NO_FIELD,
    .tstate_current_frame = 0,
    .iframe_code = offsetof(struct frame, code),
    .iframe_previous = offsetof(struct frame, back),
    .iframe_instr = offsetof(struct frame, instr),
    .iframe_owner = offsetof(struct frame, owner),
    .code_firsttraceable = offsetof(struct code, first_traceable),
    .code_adaptive = offsetof(struct code, units),
};

/* ---- the one place that knows how the record is asked ---- */

/* As payload/traceback.h: the record says whether the answer of the last time still holds. */
static bool look(struct tm_stack *stack, const struct frame *top, uint32_t limit,
                 struct tm_fingerprint *ret)
{
    const struct tm_stack_entry *last =
        tm_stack_look(stack, &tm_layout, tm_stack_follow_any, (tm_frame_ref)top, limit);
    if (last == NULL)
        return false;
    *ret = tm_stack_fingerprint(stack, last);
    if (stack->answered == stack->top) {
        g_assert_cmpuint(stack->answer, ==, (uint32_t)ret->hash1);
    } else if (ret->hash2 % 4 != 0) { /* else: nobody knew an answer */
        stack->answered = stack->top;
        stack->answer = (uint32_t)ret->hash1;
    }
    return true;
}

/* ---- the walk that remembers nothing ---- */

struct known {
    GHashTable *print_of_keys; /* GBytes of the keys -> struct tm_fingerprint */
    GHashTable *keys_of_print; /* and back */
    uint32_t limit;
};

static guint print_hash(gconstpointer data)
{
    return (guint)((const struct tm_fingerprint *)data)->hash1;
}

static gboolean print_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(struct tm_fingerprint)) == 0;
}

static struct known known_new(uint32_t limit)
{
    return (struct known){
        g_hash_table_new_full(g_bytes_hash, g_bytes_equal, (GDestroyNotify)g_bytes_unref, g_free),
        g_hash_table_new_full(print_hash, print_equal, g_free, (GDestroyNotify)g_bytes_unref),
        limit,
    };
}

static void known_done(struct known *known)
{
    g_hash_table_unref(known->print_of_keys);
    g_hash_table_unref(known->keys_of_print);
}

/* The frame that a traceback begins with, as payload/traceback.h has it. */
static const struct frame *first_shown(const struct frame *frame)
{
    while (frame != NULL && !tm_frames_is_shown(&tm_layout, (tm_frame_ref)frame))
        frame = (const struct frame *)frame->back;
    return frame;
}

static GBytes *keys_of(const struct frame *frame, uint32_t limit)
{
    GByteArray *keys = g_byte_array_new();
    for (uint32_t n = 0; frame != NULL && n < limit; frame = (const struct frame *)frame->back) {
        if (!tm_frames_is_shown(&tm_layout, (tm_frame_ref)frame))
            continue;
        uint64_t key = tm_frames_key(&tm_layout, (tm_frame_ref)frame);
        g_byte_array_append(keys, (const guint8 *)&key, sizeof(key));
        n++;
    }
    return g_byte_array_free_to_bytes(keys);
}

/* The record and the walk say the same of this stack, now and whenever it comes again. */
static void check(struct tm_stack *stack, struct known *known, const struct frame *top)
{
    struct tm_fingerprint print;
    top = first_shown(top);
    if (top == NULL)
        return;
    g_assert_true(look(stack, top, known->limit, &print));
    g_autoptr(GBytes) keys = keys_of(top, known->limit);
    struct tm_fingerprint *before = g_hash_table_lookup(known->print_of_keys, keys);
    if (before != NULL) {
        g_assert_true(print_equal(before, &print));
        return;
    }
    g_assert_null(g_hash_table_lookup(known->keys_of_print, &print));
    g_hash_table_insert(known->print_of_keys, g_bytes_ref(keys), g_memdup2(&print, sizeof(print)));
    g_hash_table_insert(known->keys_of_print, g_memdup2(&print, sizeof(print)), g_bytes_ref(keys));
}

/* ---- frames ---- */

static void set_up(struct tm_stack *stack, const struct tm_layout *layout)
{
    tm_layout = *layout;
    for (int i = 0; i < CODES; i++)
        codes[i].first_traceable = FIRST_TRACEABLE;
    memset(stack, 0, sizeof(*stack));
    g_assert_true(tm_stack_init(stack));
}

/* unit < FIRST_TRACEABLE: the frame has not begun. */
static void put_at(struct frame *frame, uint32_t unit)
{
    frame->lasti = unit * 2;
    frame->instr = (uint64_t) & ((struct code *)frame->code)->units[unit * 2];
}

/* Codes of generators are not those of functions: a place tells them apart. */
static void make_frame(struct frame *frame, const struct frame *back, uint32_t code, uint8_t owner,
                       uint32_t unit)
{
    code = code % (CODES / 2) + (owner == TM_FRAME_OWNED_BY_GENERATOR ? CODES / 2 : 0);
    *frame = (struct frame){.code = (uint64_t)&codes[code], .back = (uint64_t)back, .owner = owner};
    put_at(frame, unit);
}

static uint32_t a_unit(GRand *rand)
{
    return (uint32_t)g_rand_int_range(rand, FIRST_TRACEABLE, CODE_BYTES / 2);
}

static const struct tm_layout *const layouts[] = {&with_objects, &without_objects};

/* ---- one thing at a time ---- */

static void test_each_change_is_seen(void)
{
    enum { DEPTH = 12 };
    static struct frame frames[DEPTH], other;
    struct tm_stack stack;
    for (size_t i = 0; i < G_N_ELEMENTS(layouts); i++)
        for (uint32_t limit = 1; limit <= DEPTH + 2; limit++) {
            struct known known = known_new(limit);
            set_up(&stack, layouts[i]);
            for (int f = 0; f < DEPTH; f++)
                make_frame(&frames[f], f ? &frames[f - 1] : NULL, (uint32_t)f, OWNED_BY_THREAD, 9);
            const struct frame *top = &frames[DEPTH - 1];
            check(&stack, &known, top);
            for (int f = 0; f < DEPTH; f++) {
                uint64_t code = frames[f].code, back = frames[f].back;
                put_at(&frames[f], 10); /* the frame goes on */
                check(&stack, &known, top);
                frames[f].code = (uint64_t)&codes[CODES / 2 + f / 2]; /* another at its address */
                put_at(&frames[f], 10);
                check(&stack, &known, top);
                frames[f].code = code;
                put_at(&frames[f], 9);
                check(&stack, &known, top);
                make_frame(&other, (struct frame *)back, 5, OWNED_BY_THREAD, 30);
                frames[f].back = (uint64_t)&other; /* a frame comes between */
                check(&stack, &known, top);
                frames[f].back = back; /* and goes */
                check(&stack, &known, top);
                check(&stack, &known, &frames[f]); /* all above return */
                check(&stack, &known, top);
                frames[f].back = 0; /* all below are gone, as on a stack of its own */
                check(&stack, &known, top);
                frames[f].back = back;
                check(&stack, &known, top);
            }
            known_done(&known);
            tm_stack_done(&stack);
        }
}

/* Frames that Python does not show: shims, and those that have not begun. */
static void test_hidden_frames_come_and_go(void)
{
    enum { DEPTH = 9 };
    static struct frame frames[DEPTH];
    struct tm_stack stack;
    for (uint32_t limit = 1; limit < DEPTH; limit++) {
        struct known known = known_new(limit);
        set_up(&stack, &without_objects);
        for (int f = 0; f < DEPTH; f++)
            make_frame(&frames[f], f ? &frames[f - 1] : NULL, (uint32_t)f, OWNED_BY_THREAD, 9);
        for (uint32_t hidden = 0; hidden < 1u << (DEPTH - 1); hidden++) {
            for (int f = 0; f < DEPTH; f++)
                put_at(&frames[f], hidden >> f & 1 ? 1 : 9);
            check(&stack, &known, &frames[DEPTH - 1]);
            frames[hidden % DEPTH].owner = TM_FRAME_OWNED_BY_INTERPRETER;
            tm_stack_clear(&stack); /* an owner does not change while the record knows it */
            check(&stack, &known, &frames[DEPTH - 1]);
            frames[hidden % DEPTH].owner = OWNED_BY_THREAD;
            tm_stack_clear(&stack);
        }
        known_done(&known);
        tm_stack_done(&stack);
    }
}

/* Deeper than there is room for, up and down, with a hidden frame before each. */
static void test_deeper_than_there_is_room_for(void)
{
    static const uint32_t limits[] = {1, 16, 1000, TM_TRACEBACK_LIMIT_MAX};
    struct tm_stack stack;
    set_up(&stack, &without_objects);
    uint32_t depth = stack.capacity * 2;
    struct frame *frames = g_aligned_alloc0(depth, sizeof(*frames), 16);
    for (size_t l = 0; l < G_N_ELEMENTS(limits); l++) {
        struct known known = known_new(limits[l]);
        uint32_t step = limits[l] > 16 ? 997 : 61;
        tm_stack_clear(&stack);
        for (uint32_t f = 0; f < depth; f++) {
            make_frame(&frames[f], f ? &frames[f - 1] : NULL, f * 7 % 11,
                       f % 2 ? TM_FRAME_OWNED_BY_INTERPRETER : OWNED_BY_THREAD, 9 + f % 50);
            if (f % step == 0 || f == depth - 1)
                check(&stack, &known, &frames[f]);
        }
        for (uint32_t f = depth; f-- > 0;)
            if (f % step == 1)
                check(&stack, &known, &frames[f]);
        for (uint32_t jump = depth - 1; jump > 1; jump = jump * 2 / 3) { /* from deep to flat */
            check(&stack, &known, &frames[jump]);
            check(&stack, &known, &frames[depth - jump]);
        }
        g_assert_cmpint(stack.top - stack.entries, <, stack.capacity);
        known_done(&known);
    }
    g_aligned_free(frames);
    tm_stack_done(&stack);
}

/* More hidden frames in a row than any interpreter has: nothing is known of such a stack, and
 * nothing is overrun. */
static void test_hidden_frames_without_end(void)
{
    struct tm_stack stack;
    struct tm_fingerprint print, again;
    set_up(&stack, &without_objects);
    uint32_t depth = stack.capacity * 2;
    struct frame *frames = g_aligned_alloc0(depth, sizeof(*frames), 16);
    for (uint32_t f = 0; f < depth; f++)
        make_frame(&frames[f], f ? &frames[f - 1] : NULL, f,
                   f == depth - 1 || f < 10 ? OWNED_BY_THREAD : TM_FRAME_OWNED_BY_INTERPRETER, 9);
    tm_frame_ref *path = stack.path;
    stack.path = g_new(tm_frame_ref, stack.capacity / 2); /* whose end a sanitizer knows */
    g_assert_true(look(&stack, &frames[9], 16, &print));
    g_assert_false(look(&stack, &frames[depth - 1], 16, &again));
    g_assert_false(look(&stack, &frames[depth - 1], 16, &again));
    g_assert_true(look(&stack, &frames[9], 16, &again));
    g_assert_true(print_equal(&print, &again));
    g_free(stack.path);
    stack.path = path;
    g_aligned_free(frames);
    tm_stack_done(&stack);
}

/* A frame without a key (up to 3.10: f_lasti beyond 2^20) has no fingerprint, and spoils none. */
static void test_a_frame_without_a_key(void)
{
    static struct frame frames[3];
    struct tm_stack stack;
    struct tm_fingerprint print, again;
    set_up(&stack, &with_objects);
    for (int f = 0; f < 3; f++)
        make_frame(&frames[f], f ? &frames[f - 1] : NULL, (uint32_t)f, OWNED_BY_THREAD, 9);
    g_assert_true(look(&stack, &frames[2], 3, &print));
    frames[1].lasti = 1 << 20;
    g_assert_false(look(&stack, &frames[2], 3, &again));
    g_assert_false(look(&stack, &frames[2], 3, &again));
    g_assert_true(look(&stack, &frames[0], 3, &again));
    put_at(&frames[1], 9);
    g_assert_true(look(&stack, &frames[2], 3, &again));
    g_assert_true(print_equal(&print, &again));
    tm_stack_done(&stack);
}

/* Another limit: what tm_traceback_flush does. The record says what a new one says. */
static void test_the_limit_changes(void)
{
    enum { DEPTH = 60 };
    static struct frame frames[DEPTH];
    struct tm_stack stack, fresh;
    set_up(&stack, &without_objects);
    set_up(&fresh, &without_objects);
    for (int f = 0; f < DEPTH; f++)
        make_frame(&frames[f], f ? &frames[f - 1] : NULL, (uint32_t)f,
                   f % 5 == 2 ? TM_FRAME_OWNED_BY_INTERPRETER : OWNED_BY_THREAD, 9);
    for (uint32_t i = 0; i < 400; i++) {
        uint32_t limit = 1 + i * 31 % 70;
        struct tm_fingerprint print, wanted;
        tm_stack_clear(&stack);
        tm_stack_clear(&fresh);
        for (int f = DEPTH - 1; f > 0; f -= (int)(i % 7) + 5) {
            const struct frame *top = first_shown(&frames[f]);
            g_assert_true(look(&stack, top, limit, &print));
            tm_stack_clear(&fresh);
            g_assert_true(look(&fresh, top, limit, &wanted));
            g_assert_true(print_equal(&print, &wanted));
        }
    }
    tm_stack_done(&stack);
    tm_stack_done(&fresh);
}

/* ---- whatever a program may do ---- */

enum { STACKS = 4, STACK_FRAMES = 300, GENERATORS = 40 };

/* Stacks that a thread switches between (greenlets), on each of which frames come and go at the
 * same addresses; generators whose frames lie elsewhere and are resumed anywhere. */
struct program {
    struct frame frames[STACKS][STACK_FRAMES];
    struct frame generators[GENERATORS];
    struct frame *chain[STACKS][STACK_FRAMES]; /* what is running, lowest first */
    uint32_t depth[STACKS];
    bool resumed[GENERATORS];
    GRand *rand;
};

static void push(struct program *program, uint32_t s)
{
    uint32_t depth = program->depth[s];
    struct frame *back = depth > 0 ? program->chain[s][depth - 1] : NULL;
    int kind = g_rand_int_range(program->rand, 0, 10);
    if (depth == STACK_FRAMES)
        return;
    struct frame *frame = &program->frames[s][depth];
    uint32_t code = (uint32_t)g_rand_int_range(program->rand, 0, CODES);
    if (kind == 0) {
        uint32_t g = (uint32_t)g_rand_int_range(program->rand, 0, GENERATORS);
        if (program->resumed[g])
            return;
        program->resumed[g] = true;
        frame = &program->generators[g];
        if (frame->code == 0)
            make_frame(frame, back, code, TM_FRAME_OWNED_BY_GENERATOR, a_unit(program->rand));
        frame->back = (uint64_t)back;
    } else if (kind == 1) {
        make_frame(frame, back, code, TM_FRAME_OWNED_BY_INTERPRETER, 1);
    } else {
        make_frame(frame, back, code, OWNED_BY_THREAD, kind == 2 ? 1 : a_unit(program->rand));
    }
    program->chain[s][program->depth[s]++] = frame;
}

static void pop(struct program *program, uint32_t s, uint32_t n)
{
    while (n-- > 0 && program->depth[s] > 0) {
        struct frame *frame = program->chain[s][--program->depth[s]];
        if (frame->owner == TM_FRAME_OWNED_BY_GENERATOR) {
            program->resumed[frame - program->generators] = false;
            frame->back = 0;
            if (g_rand_int_range(program->rand, 0, 4) == 0)
                frame->code = 0; /* done: the next one at this address is another */
        } else {
            memset(frame, 0x55, sizeof(*frame)); /* nothing may be believed of it */
        }
    }
}

static void move(struct program *program, uint32_t s)
{
    uint32_t depth = program->depth[s];
    if (depth == 0)
        return;
    struct frame *frame = program->chain[s][depth - 1];
    if (frame->owner != TM_FRAME_OWNED_BY_INTERPRETER)
        put_at(frame, a_unit(program->rand));
}

static void wander(const struct tm_layout *layout, uint32_t limit, uint32_t seed, int steps)
{
    struct program *program = g_aligned_alloc0(1, sizeof(*program), 16);
    struct known known = known_new(limit);
    struct tm_stack stack;
    set_up(&stack, layout);
    program->rand = g_rand_new_with_seed(seed);
    uint32_t s = 0;
    for (int i = 0; i < steps; i++) {
        int what = g_rand_int_range(program->rand, 0, 100);
        if (what < 40)
            push(program, s);
        else if (what < 70)
            pop(program, s, 1);
        else if (what < 90)
            move(program, s);
        else if (what < 92)
            s = (uint32_t)g_rand_int_range(program->rand, 0, STACKS);
        else if (what < 94)
            pop(program, s, (uint32_t)g_rand_int_range(program->rand, 0, STACK_FRAMES));
        else if (what < 97)
            for (int n = g_rand_int_range(program->rand, 0, 60); n > 0; n--)
                push(program, s);
        else if (what == 97 && i % 50 == 0)
            tm_stack_clear(&stack);
        /* Not each change is looked at. */
        if (program->depth[s] > 0 && g_rand_int_range(program->rand, 0, 3) > 0)
            check(&stack, &known, program->chain[s][program->depth[s] - 1]);
    }
    g_rand_free(program->rand);
    known_done(&known);
    tm_stack_done(&stack);
    g_aligned_free(program);
}

static void test_whatever_a_program_does(void)
{
    static const uint32_t limits[] = {1, 2, 5, 16, 64, 1000};
    for (uint32_t seed = 0; seed < (g_test_slow() ? 50 : 2); seed++)
        for (size_t i = 0; i < G_N_ELEMENTS(layouts); i++)
            for (size_t l = 0; l < G_N_ELEMENTS(limits); l++)
                wander(layouts[i], limits[l], seed, 20000);
}

/* ---- lanes: records of several threads at once ---- */

static void *lane_main(void *data)
{
    enum { DEPTH = 40 };
    struct frame frames[DEPTH];
    struct known known = known_new(16);
    struct tm_stack *stack = data;
    for (int round = 0; round < 2000; round++)
        for (int f = 0; f < DEPTH; f += 1 + round % 3) {
            make_frame(&frames[f], f ? (f > round % 3 ? &frames[f - 1 - round % 3] : NULL) : NULL,
                       (uint32_t)f, OWNED_BY_THREAD, 9 + (uint32_t)(round % 5));
            check(stack, &known, &frames[f]);
        }
    known_done(&known);
    return NULL;
}

static void test_each_lane_has_its_own(void)
{
    enum { LANES = 4 };
    static struct tm_stack stacks[LANES];
    pthread_t threads[LANES];
    for (int i = 0; i < LANES; i++)
        set_up(&stacks[i], &without_objects);
    for (int i = 0; i < LANES; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, lane_main, &stacks[i]), ==, 0);
    for (int i = 0; i < LANES; i++) {
        pthread_join(threads[i], NULL);
        g_assert_cmpuint(tm_stack_resident_bytes(&stacks[i]), >, 0);
        tm_stack_done(&stacks[i]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/stack/each-change", test_each_change_is_seen);
    g_test_add_func("/engine/stack/hidden-frames", test_hidden_frames_come_and_go);
    g_test_add_func("/engine/stack/deeper-than-room", test_deeper_than_there_is_room_for);
    g_test_add_func("/engine/stack/hidden-without-end", test_hidden_frames_without_end);
    g_test_add_func("/engine/stack/no-key", test_a_frame_without_a_key);
    g_test_add_func("/engine/stack/limit", test_the_limit_changes);
    g_test_add_func("/engine/stack/whatever", test_whatever_a_program_does);
    g_test_add_func("/engine/stack/lanes", test_each_lane_has_its_own);
    return g_test_run();
}
