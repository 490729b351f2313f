// SPDX-License-Identifier: MIT
#include <glib.h>
#include <string.h>

#include "payload/x86.h"

struct sample {
    const char *text;
    uint8_t bytes[16];
    uint8_t length;
    enum tm_x86_kind kind;
    int64_t target;
};

/* Encodings as objdump shows them. */
static const struct sample samples[] = {
    {"push %r15", {0x41, 0x57}, 2, TM_X86_PLAIN, 0},
    {"endbr64", {0xf3, 0x0f, 0x1e, 0xfa}, 4, TM_X86_PLAIN, 0},
    {"test %rdi,%rdi", {0x48, 0x85, 0xff}, 3, TM_X86_PLAIN, 0},
    {"sub $0x8,%rsp", {0x48, 0x83, 0xec, 0x08}, 4, TM_X86_PLAIN, 0},
    {"lea -0x1(%rdi),%rax", {0x48, 0x8d, 0x47, 0xff}, 4, TM_X86_PLAIN, 0},
    {"movabs $imm64,%rax", {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}, 10, TM_X86_PLAIN, 0},
    {"mov $imm32,%eax", {0xb8, 1, 2, 3, 4}, 5, TM_X86_PLAIN, 0},
    {"mov $imm16,%ax", {0x66, 0xb8, 1, 2}, 4, TM_X86_PLAIN, 0},
    {"mov (%rsi,%rax,1),%rax", {0x48, 0x8b, 0x04, 0x06}, 4, TM_X86_PLAIN, 0},
    {"mov 0x0(,%rax,8),%rax", {0x48, 0x8b, 0x04, 0xc5, 0, 0, 0, 0}, 8, TM_X86_PLAIN, 0},
    {"testb $1,(%rax)", {0xf6, 0x00, 0x01}, 3, TM_X86_PLAIN, 0},
    {"neg %rax", {0x48, 0xf7, 0xd8}, 3, TM_X86_PLAIN, 0},
    {"cs nopw 0x0(%rax,%rax,1)",
     {0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0},
     10,
     TM_X86_PLAIN,
     0},
    {"cmp 0x10(%rip),%eax", {0x3b, 0x05, 0x10, 0, 0, 0}, 6, TM_X86_RIP_RELATIVE, 22},
    {"cmpq $0,0x10(%rip)", {0x48, 0x83, 0x3d, 0x10, 0, 0, 0, 0}, 8, TM_X86_RIP_RELATIVE, 24},
    {"js +6", {0x78, 0x06}, 2, TM_X86_BRANCH, 8},
    {"je -0x100", {0x0f, 0x84, 0x00, 0xff, 0xff, 0xff}, 6, TM_X86_BRANCH, -250},
    {"jmp rel32", {0xe9, 0x10, 0, 0, 0}, 5, TM_X86_JUMP, 21},
    {"call rel32", {0xe8, 0x10, 0, 0, 0}, 5, TM_X86_CALL, 21},
};

static void test_lengths(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(samples); i++) {
        const struct sample *s = &samples[i];
        struct tm_x86 insn;
        g_test_message("%s", s->text);
        g_assert_true(tm_x86_decode(s->bytes, s->length, &insn));
        g_assert_cmpuint(insn.bytes, ==, s->length);
        g_assert_cmpint(insn.kind, ==, s->kind);
        if (s->kind != TM_X86_PLAIN)
            g_assert_cmpint(insn.target, ==, s->target);
        for (size_t left = 0; left < s->length; left++)
            g_assert_false(tm_x86_decode(s->bytes, left, &insn));
    }
}

static void test_unknown(void)
{
    static const uint8_t vex[] = {0xc5, 0xf8, 0x77}, evex[] = {0x62, 0xf1, 0x7c, 0x48, 0x28, 0},
                         two_rex[] = {0x48, 0x48, 0x89, 0xc0},
                         prefixes[] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                       0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90};
    struct tm_x86 insn;
    g_assert_false(tm_x86_decode(vex, sizeof(vex), &insn));
    g_assert_false(tm_x86_decode(evex, sizeof(evex), &insn));
    g_assert_false(tm_x86_decode(two_rex, sizeof(two_rex), &insn));
    g_assert_false(tm_x86_decode(prefixes, sizeof(prefixes), &insn));
    static const uint8_t short_call[] = {0x66, 0xe8, 0, 0, 0, 0};
    g_assert_false(tm_x86_decode(short_call, sizeof(short_call), &insn));
}

static void test_flow(void)
{
    static const struct {
        const char *text;
        uint8_t bytes[8];
        uint8_t length;
        enum tm_x86_flow flow;
    } cases[] = {
        {"call rel32", {0xe8, 0, 0, 0, 0}, 5, TM_X86_CALLS},
        {"call *%rax", {0xff, 0xd0}, 2, TM_X86_CALLS},
        {"call *%r11", {0x41, 0xff, 0xd3}, 3, TM_X86_CALLS},
        {"call *0x8(%rax)", {0xff, 0x50, 0x08}, 3, TM_X86_CALLS},
        {"call *0x10(%rip)", {0xff, 0x15, 0x10, 0, 0, 0}, 6, TM_X86_CALLS},
        {"jmp *%rax", {0xff, 0xe0}, 2, TM_X86_JUMPS_BY_MAP},
        {"notrack jmp *%rax", {0x3e, 0xff, 0xe0}, 3, TM_X86_JUMPS_BY_MAP},
        {"jmp *0x0(,%rax,8)", {0xff, 0x24, 0xc5, 0, 0, 0, 0}, 7, TM_X86_JUMPS_BY_MAP},
        {"jmp *0x10(%rip)", {0xff, 0x25, 0x10, 0, 0, 0}, 6, TM_X86_ON},
        {"inc %eax", {0xff, 0xc0}, 2, TM_X86_ON},
        {"push 0x8(%rax)", {0xff, 0x70, 0x08}, 3, TM_X86_ON},
        {"int3", {0xcc}, 1, TM_X86_TRAPS},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct tm_x86 insn;
        g_test_message("%s", cases[i].text);
        g_assert_true(tm_x86_decode(cases[i].bytes, cases[i].length, &insn));
        g_assert_cmpuint(insn.bytes, ==, cases[i].length);
        g_assert_cmpint(insn.flow, ==, cases[i].flow);
    }
}

/* test %rdi,%rdi; je +0x20 (short); cmp 0x100(%rip),%eax: what is near becomes far. */
static void test_move(void)
{
    static const uint8_t code[] = {0x48, 0x85, 0xff, 0x74, 0x20, 0x3b, 0x05, 0x00, 0x01, 0, 0};
    uint8_t to[64];
    int32_t distance;
    size_t made = 0;
    g_assert_cmpuint(tm_x86_move(code, sizeof(code), 0x10000, 6, to, sizeof(to), 0x20000, &made),
                     ==, sizeof(code));
    g_assert_cmpuint(made, ==, 3 + 6 + 6);
    g_assert_cmpmem(to, 3, code, 3);
    g_assert_cmphex(to[3], ==, 0x0f);
    g_assert_cmphex(to[4], ==, 0x84);
    memcpy(&distance, to + 5, 4);
    g_assert_cmphex(0x20000 + 9 + (uint64_t)distance, ==, 0x10000 + 5 + 0x20);
    memcpy(&distance, to + 11, 4);
    g_assert_cmphex((uint64_t)(0x20000 + 15 + (int64_t)distance), ==, 0x10000 + 11 + 0x100);
}

static void test_not_moved(void)
{
    static const uint8_t call[] = {0x53, 0xe8, 0, 0, 0, 0, 0x5b, 0xc3};
    static const uint8_t inside[] = {0x48, 0x85, 0xff, 0x74, 0xfb, 0x90, 0x90};
    static const uint8_t rip[] = {0x3b, 0x05, 0x10, 0, 0, 0, 0x90};
    uint8_t to[64];
    size_t made;
    g_assert_cmpuint(tm_x86_move(call, sizeof(call), 0x10000, 5, to, 64, 0x20000, &made), ==, 0);
    g_assert_cmpuint(tm_x86_move(inside, sizeof(inside), 0x10000, 5, to, 64, 0x20000, &made), ==,
                     0);
    /* Too far for four bytes; no room. */
    g_assert_cmpuint(tm_x86_move(rip, sizeof(rip), 0x10000, 5, to, 64, 0x200000000, &made), ==, 0);
    g_assert_cmpuint(tm_x86_move(rip, sizeof(rip), 0x10000, 5, to, 8, 0x20000, &made), ==, 0);
    g_assert_cmpuint(tm_x86_move(rip, 3, 0x10000, 5, to, 64, 0x20000, &made), ==, 0);
    /* push %rbx and a call through a register, a call through a slot, a breakpoint, a jump that
     * another tool has put there, an instruction that is not known. */
    static const uint8_t nasty[][10] = {
        {0x53, 0x41, 0xff, 0xd3, 0x90, 0xc3},       {0x53, 0xff, 0x15, 0x10, 0, 0, 0, 0xc3},
        {0xcc, 0x57, 0x41, 0x56, 0x41, 0x55, 0xc3}, {0xe9, 0x10, 0, 0, 0, 0x90, 0xc3},
        {0xeb, 0x10, 0x90, 0x90, 0x90, 0x90, 0xc3}, {0x53, 0xc5, 0xf8, 0x77, 0x90, 0x90, 0xc3},
        {0xe3, 0x10, 0x90, 0x90, 0x90, 0x90, 0xc3},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(nasty); i++)
        g_assert_cmpuint(
            tm_x86_move(nasty[i], sizeof(nasty[i]), 0x10000, 5, to, 64, 0x20000, &made), ==, 0);
}

static void test_enters(void)
{
    /* push %rbx; nop x4; jmp back to 0, to 1, to 5 */
    uint8_t code[] = {0x53, 0x90, 0x90, 0x90, 0x90, 0xeb, 0};
    static const struct {
        int target;
        bool enters;
    } cases[] = {{0, false}, {1, true}, {4, true}, {5, false}};
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        code[6] = (uint8_t)(cases[i].target - 7);
        g_assert_cmpint(tm_x86_enters(code, sizeof(code), 5), ==, cases[i].enters);
    }
    code[1] = 0xc5;
    g_assert_true(tm_x86_enters(code, sizeof(code), 5));
    /* Nobody knows where a jump by a table leads. */
    static const uint8_t by_table[] = {0x53, 0x90, 0x90, 0x90, 0x90, 0xff, 0x24, 0xc5, 0, 0, 0, 0};
    g_assert_true(tm_x86_enters(by_table, sizeof(by_table), 5));
    static const uint8_t tail[] = {0x53, 0x90, 0x90, 0x90, 0x90, 0xff, 0x25, 0, 0x10, 0, 0};
    g_assert_false(tm_x86_enters(tail, sizeof(tail), 5));
}

/* From before and behind, by each kind of branch. */
static void test_enters_from(void)
{
    static const uint8_t opcodes[][2] = {{0xe8}, {0xe9}, {0x0f, 0x80}, {0x0f, 0x8f}};
    enum { TEXT_BYTES = 256, FUNCTION = 128, MOVED = 9 };
    for (size_t i = 0; i < G_N_ELEMENTS(opcodes); i++) {
        size_t n = opcodes[i][1] != 0 ? 2 : 1;
        for (size_t place = 0; place + n + 5 <= TEXT_BYTES; place++) {
            uint8_t text[TEXT_BYTES];
            if (place + n + 4 > FUNCTION && place < FUNCTION + MOVED)
                continue;
            for (int target = -2; target < MOVED + 2; target++) {
                int32_t distance = FUNCTION + target - (int32_t)(place + n + 4);
                memset(text, 0x90, sizeof(text));
                memcpy(text + place, opcodes[i], n);
                memcpy(text + place + n, &distance, sizeof(distance));
                g_assert_cmpint(tm_x86_enters_from(text, sizeof(text), text + FUNCTION, MOVED), ==,
                                target > 0 && target < MOVED);
            }
        }
    }
}

/* Whatever the bytes are: no read past the end, and lengths that add up. */
static void test_any_bytes(void)
{
    uint32_t seed = 1;
    for (int round = 0; round < 200000; round++) {
        uint8_t code[24], to[128];
        size_t made = 0;
        for (size_t i = 0; i < sizeof(code); i++)
            code[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
        size_t n_bytes = seed >> 16 & 15;
        uint8_t *exact = g_memdup2(code, n_bytes);
        struct tm_x86 insn;
        if (tm_x86_decode(exact, n_bytes, &insn))
            g_assert_true(insn.bytes > 0 && insn.bytes <= n_bytes && insn.bytes <= 15);
        size_t used = tm_x86_move(exact, n_bytes, 0x10000, 5, to, sizeof(to), 0x20000, &made);
        g_assert_true(used == 0 || (used >= 5 && used <= n_bytes && made > 0));
        tm_x86_enters(exact, n_bytes, 5);
        g_free(exact);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/x86/lengths", test_lengths);
    g_test_add_func("/x86/unknown", test_unknown);
    g_test_add_func("/x86/flow", test_flow);
    g_test_add_func("/x86/move", test_move);
    g_test_add_func("/x86/not-moved", test_not_moved);
    g_test_add_func("/x86/enters", test_enters);
    g_test_add_func("/x86/enters-from", test_enters_from);
    g_test_add_func("/x86/any-bytes", test_any_bytes);
    return g_test_run();
}
