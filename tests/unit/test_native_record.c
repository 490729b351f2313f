// SPDX-License-Identifier: MIT
/*
 * The record of native frames against a plain walk, on invented stacks that grow,
 * shrink and change: the same fingerprint for the same frames, another one for
 * others, and no word is believed that is not there any more.
 */
#include "payload/native/record.h"

#include <glib.h>
#include <string.h>

#include "payload/layout.h"

enum { WORDS = 4096, FUNCTIONS = 24, DEPTH = 6, FRAMES_MAX = 60, TURNS = 4 };

/* A function's return addresses are BASE + number * SPAN + call. */
#define BASE 0x400000ull
#define SPAN 0x100ull

static uint64_t memory[WORDS];
static struct tm_native_record record;
static struct tm_native_pc pcs[TM_NATIVE_PCS];
static guint looked_up;
static const struct tm_layout layout = {.py_version = 0x0308}; /* a Python frame for each call */

/* What the functions are: by rsp, by rbp, realigned, running Python code, without a table. */
static void look_up(void *data, uint64_t pc, struct tm_native_pc *ret)
{
    uint64_t number = (pc - BASE) / SPAN;

    (void)data;
    looked_up++;
    *ret = (struct tm_native_pc){.pc = pc};
    ret->rule.role = number % 4 == 3 ? TM_NATIVE_ROLE_EVAL : TM_NATIVE_ROLE_C;
    ret->rule.cfa_bytes = 8 * (int32_t)(2 + number % 5);
    ret->rule.kind = TM_CFI_RSP;
    if (number % 3 == 1)
        ret->rule.saved_bytes = -16;
    if (number % 6 == 5) {
        ret->rule.kind = TM_CFI_RBP;
        ret->rule.cfa_bytes = 16;
        ret->rule.saved_bytes = -16;
    } else if (number == FUNCTIONS - 2) {
        ret->rule.kind = TM_CFI_RBP_DEREF;
        ret->rule.cfa_bytes = -8;
    } else if (number == FUNCTIONS) {
        ret->rule.kind = TM_CFI_END;
    } else if (number == FUNCTIONS + 1) {
        ret->rule.kind = TM_CFI_UNKNOWN;
    }
}

/* One stack, the outermost frame first. */
struct stack {
    uint64_t pcs[FRAMES_MAX];
    guint gaps[FRAMES_MAX]; /* words more than the frame needs, where rbp tells its size */
    guint n;
};

static uint64_t address_of(guint word)
{
    return (uint64_t)&memory[word];
}

/* Writes it to the memory as its functions would; returns the address of the most recent return
 * address. Words between are left as they were before. */
static uint64_t lay_out(const struct stack *stack)
{
    guint at = WORDS - 8; /* word of the return address into frame 0 */
    uint64_t bp = 0x1234;

    memory[at] = stack->pcs[0];
    for (guint i = 0; i < stack->n; i++) {
        /* The registers in frame i, which is as big as its rule says, and then its callee's return
         * address. */
        struct tm_native_pc known;
        guint caller_at = at;
        if (i == 0)
            continue;
        look_up(NULL, stack->pcs[i], &known);
        /* Frame i's return address lies `size` words below that of its caller. */
        if (known.rule.kind == TM_CFI_RBP) {
            at = caller_at - (2 + stack->gaps[i]);
            memory[caller_at - 1] = bp; /* push rbp; mov rbp, rsp */
            bp = address_of(caller_at - 1);
        } else if (known.rule.kind == TM_CFI_RBP_DEREF) {
            guint low = caller_at - 4 - stack->gaps[i];
            memory[low] = bp;
            bp = address_of(low);
            memory[low - 1] = address_of(caller_at + 1);
            at = low - 3;
        } else {
            at = caller_at - (guint)(known.rule.cfa_bytes / 8);
            if (known.rule.saved_bytes != 0) {
                memory[caller_at - 1] = bp;
                bp = g_random_int() % 2 ? bp : g_random_int();
            }
        }
        memory[at] = stack->pcs[i];
    }
    memory[at - 1] = bp;
    return address_of(at);
}

static struct stack *stack_new(GRand *rand)
{
    struct stack *stack = g_new0(struct stack, 1);
    stack->pcs[0] = BASE + (g_rand_int_range(rand, 0, 2) + FUNCTIONS) * SPAN;
    stack->n = 1;
    return stack;
}

static void push(struct stack *stack, GRand *rand)
{
    stack->pcs[stack->n] = BASE + (uint64_t)g_rand_int_range(rand, 0, FUNCTIONS) * SPAN +
                           (uint64_t)g_rand_int_range(rand, 1, 4);
    stack->gaps[stack->n] = (guint)g_rand_int_range(rand, 1, 5);
    stack->n++;
}

/* What the fingerprint stands for, in words. */
static char *describe(const struct stack *stack, guint depth, guint limit, guint n_python)
{
    GString *text = g_string_new(NULL);
    guint native = 0, python = 0;

    g_string_append_printf(text, "%u of %u: ", n_python, limit);
    for (guint i = stack->n; i-- > 0;) {
        uint64_t number = (stack->pcs[i] - BASE) / SPAN;
        if (number < FUNCTIONS && number % 4 == 3) {
            g_string_append(text, "python ");
            if (python < n_python)
                python++;
            if (limit != 0 && n_python != 0 && python >= limit)
                return g_string_free(text, FALSE);
        } else {
            g_string_append_printf(text, "%" G_GINT64_MODIFIER "x ", stack->pcs[i]);
            if (++native == depth)
                return g_string_free(text, FALSE);
        }
    }
    g_string_append(text, "end");
    return g_string_free(text, FALSE);
}

static bool look(uint64_t at, guint depth, guint limit, guint n_python, struct tm_fingerprint *ret,
                 gboolean *ret_memo)
{
    struct tm_stack python = {0};
    struct tm_native_ranks ranks = {.limit = limit, .n_shown = n_python};
    uint64_t high = address_of(WORDS);
    uint64_t tag = tm_native_memo_tag(&record, at, high);
    struct tm_native_memo *memo;

    if (n_python > 0 && limit > 1)
        ranks.stack = &python;
    memo = tm_native_memo_find(&record.memos, tag, at, high, depth, ranks, &layout);
    *ret_memo = memo != NULL;
    if (memo != NULL) {
        *ret = memo->print;
        ranks.hash = memo->ranks_hash;
    } else {
        struct tm_native_walk walk = {at, high, depth, &ranks, &layout};
        if (!tm_native_record_look(&record, &walk, tag, ret, &memo))
            return false;
    }
    /* As the fingerprint of the Python frames would be, beside. */
    ret->hash1 ^= (ranks.hash + limit * 1000 + n_python) * TM_HASH_K2;
    return true;
}

static void setup(void)
{
    memset(pcs, 0, sizeof(pcs));
    record = (struct tm_native_record){.pcs = pcs, .look_up = look_up};
    g_assert_true(tm_native_record_init(&record));
}

static void test_random(void)
{
    GRand *rand = g_rand_new_with_seed(7);
    GHashTable *texts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    GHashTable *prints = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    struct stack *stack = stack_new(rand);
    guint by_memo = 0, answers = 0;
    const guint rounds = 200000;

    setup();
    for (guint round = 0; round < rounds; round++) {
        guint keep = stack->n;
        switch (g_rand_int_range(rand, 0, 12)) {
        case 0: /* another thread's, or all is new */
            g_free(stack);
            stack = stack_new(rand);
            break;
        case 1: /* one call returns and another is made, deep down */
            stack->pcs[stack->n / 2] ^= stack->n > 2 ? 1 + g_rand_int(rand) % 3 : 0;
            break;
        case 2:
            keep = 1 + (guint)g_rand_int_range(rand, 0, (gint)stack->n);
            break;
        case 3:
            break; /* the same again */
        default:
            keep = (guint)g_rand_int_range(rand, 0, 4);
            keep = keep < stack->n ? stack->n - keep : 1;
        }
        if (stack->n > 1)
            stack->n = MIN(stack->n, keep);
        for (gint i = g_rand_int_range(rand, 0, 5); i > 0 && stack->n < FRAMES_MAX; i--)
            push(stack, rand);
        uint64_t at = lay_out(stack);
        guint depth = g_rand_int_range(rand, 0, 3) ? DEPTH : 40;
        guint limit = g_rand_int_range(rand, 0, 3) ? 16 : 1;
        guint n_python = g_rand_int_range(rand, 0, 8) ? (limit == 1 ? 1 : 20) : 0;
        struct tm_fingerprint print;
        gboolean memo;
        if (!look(at, depth, limit, n_python, &print, &memo))
            continue; /* it may say so, but not often */
        answers++;
        by_memo += memo;
        g_autofree char *what = describe(stack, depth, limit, n_python);
        char *text = g_steal_pointer(&what);
        char *hex = g_strdup_printf("%" G_GINT64_MODIFIER "x %" G_GINT64_MODIFIER "x", print.hash1,
                                    print.hash2);
        const char *known_text = g_hash_table_lookup(texts, hex);
        const char *known_print = g_hash_table_lookup(prints, text);
        if (known_text)
            g_assert_cmpstr(known_text, ==, text);
        if (known_print)
            g_assert_cmpstr(known_print, ==, hex);
        g_hash_table_insert(texts, g_strdup(hex), g_strdup(text));
        g_hash_table_insert(prints, text, hex);
    }
    g_test_message("%u of %u answers, %u of them by a memo, %u addresses looked up", answers,
                   rounds, by_memo, looked_up);
    g_assert_cmpuint(answers, >, rounds * 99 / 100);
    g_assert_cmpuint(by_memo, >, rounds / 50);
    g_free(stack);
    g_rand_free(rand);
    g_hash_table_unref(texts);
    g_hash_table_unref(prints);
    tm_native_record_done(&record);
}

/* Stacks of the same size whose most recent frames are the same, so that they share a tag; `which`
 * tells them apart further out. */
static uint64_t lay_out_one_of(guint which)
{
    struct stack stack = {.n = 6};

    stack.pcs[0] = BASE + FUNCTIONS * SPAN;
    for (guint i = 1; i < stack.n; i++)
        stack.pcs[i] = BASE + 4 * SPAN + 1; /* by rsp, not Python's */
    stack.pcs[2] += which;
    return lay_out(&stack);
}

static void test_turns(void)
{
    struct tm_fingerprint print[TURNS], again;
    gboolean by_memo;

    setup();
    /* Until the addresses are known, a stack has another tag. */
    look(lay_out_one_of(TURNS), DEPTH, 1, 1, &again, &by_memo);
    for (guint i = 0; i < TURNS; i++) {
        g_assert_true(look(lay_out_one_of(i), DEPTH, 1, 1, &print[i], &by_memo));
        g_assert_false(by_memo);
        for (guint k = 0; k < i; k++)
            g_assert_cmpuint(print[k].hash1, !=, print[i].hash1);
    }
    for (guint round = 0; round < 100; round++) {
        guint i = round % TURNS;
        g_assert_true(look(lay_out_one_of(i), DEPTH, 1, 1, &again, &by_memo));
        g_assert_true(by_memo);
        g_assert_cmpuint(again.hash1, ==, print[i].hash1);
        g_assert_cmpuint(again.hash2, ==, print[i].hash2);
    }
    /* The same words where the stack ends below some of them: they are not read. */
    struct tm_native_ranks ranks = {.limit = 1, .n_shown = 1};
    uint64_t at = lay_out_one_of(0), high = address_of(WORDS);
    uint64_t tag = tm_native_memo_tag(&record, at, high);
    g_assert_nonnull(tm_native_memo_find(&record.memos, tag, at, high, DEPTH, ranks, &layout));
    g_assert_null(
        tm_native_memo_find(&record.memos, tag, at, address_of(WORDS - 8), DEPTH, ranks, &layout));
    tm_native_record_done(&record);
}

/* The memo of the stack `which`, made where there is none. */
static struct tm_native_memo *memo_of(guint which, uint64_t *ret_tag)
{
    uint64_t at = lay_out_one_of(which), high = address_of(WORDS);
    struct tm_native_ranks ranks = {.limit = 1, .n_shown = 1};
    struct tm_fingerprint print;
    gboolean by_memo;

    *ret_tag = tm_native_memo_tag(&record, at, high);
    g_assert_true(look(at, DEPTH, 1, 1, &print, &by_memo));
    return tm_native_memo_find(&record.memos, *ret_tag, at, high, DEPTH, ranks, &layout);
}

/* A note leads to its memo with its Python frames, in its epoch, and until the memo goes. */
static void test_notes(void)
{
    const struct tm_fingerprint python = {77, TM_HASH_K2}, other = {78, TM_HASH_K2};
    uint64_t tag;

    setup();
    memo_of(1, &tag); /* until the addresses are known, a stack has another tag */
    struct tm_native_memo *memo = memo_of(0, &tag);
    g_assert_nonnull(memo);
    struct tm_native_note *note = tm_native_note_of(&record.memos, tag, python.hash1);
    g_assert_null(tm_native_note_memo(&record.memos, note, python, 1)); /* there is none */
    *note = (struct tm_native_note){python, memo->serial, NULL, 1, 5};
    g_assert_true(tm_native_note_memo(&record.memos, note, python, 1) == memo);
    g_assert_null(tm_native_note_memo(&record.memos, note, other, 1));
    g_assert_null(tm_native_note_memo(&record.memos, note, python, 2));
    /* Others of the same set drive it out. */
    uint64_t serial = memo->serial;
    for (guint i = 1; memo->serial == serial && i < 1000; i++)
        memo_of(i % (SPAN - 2), &tag);
    g_assert_cmpuint(memo->serial, !=, serial);
    g_assert_null(tm_native_note_memo(&record.memos, note, python, 1));
    /* Addresses mean something else. */
    memo = memo_of(0, &tag);
    note->serial = memo->serial;
    g_assert_true(tm_native_note_memo(&record.memos, note, python, 1) == memo);
    tm_native_record_clear(&record);
    g_assert_null(tm_native_note_memo(&record.memos, note, python, 1));
    memo_of(0, &tag); /* made again at the same place */
    g_assert_null(tm_native_note_memo(&record.memos, note, python, 1));
    tm_native_record_done(&record);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/native/record/same-frames-same-fingerprint", test_random);
    g_test_add_func("/native/record/stacks-that-take-turns", test_turns);
    g_test_add_func("/native/record/notes-go-with-their-memos", test_notes);
    return g_test_run();
}
