// SPDX-License-Identifier: MIT
#include "payload/x86.h"

#include <string.h>

/* What follows an opcode. */
enum shape {
    NONE = 0,
    BAD = 1,   /* not known here */
    MODRM = 2, /* a ModRM byte and what that asks for */
    IMM8 = 4,
    IMM16 = 8,
    IMMZ = 16, /* 4 bytes; 2 behind prefix 66 */
    REL8 = 32,
    REL32 = 64,
};

static unsigned shape_of_low(uint8_t op)
{
    static const uint8_t by_low_bits[] = {MODRM, MODRM, MODRM, MODRM, IMM8, IMMZ, BAD, BAD};
    return by_low_bits[op & 7];
}

static unsigned shape_of(uint8_t op)
{
    if (op < 0x40)
        return shape_of_low(op);
    if (op >= 0x70 && op <= 0x7f)
        return REL8;
    if ((op >= 0x84 && op <= 0x8f) || (op >= 0xd0 && op <= 0xd3) || (op >= 0xd8 && op <= 0xdf))
        return MODRM;
    switch (op) {
    case 0x60:
    case 0x61:
    case 0x62:
    case 0x82:
    case 0x9a:
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3:
    case 0xc4:
    case 0xc5:
    case 0xc8:
    case 0xce:
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xea:
        return BAD;
    case 0x63:
    case 0xf6:
    case 0xf7:
    case 0xfe:
    case 0xff:
        return MODRM;
    case 0x68:
    case 0xa9:
        return IMMZ;
    case 0x69:
    case 0x81:
    case 0xc7:
        return MODRM | IMMZ;
    case 0x6a:
    case 0xa8:
    case 0xcd:
    case 0xe4:
    case 0xe5:
    case 0xe6:
    case 0xe7:
        return IMM8;
    case 0x6b:
    case 0x80:
    case 0x83:
    case 0xc0:
    case 0xc1:
    case 0xc6:
        return MODRM | IMM8;
    case 0xc2:
    case 0xca:
        return IMM16;
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xeb:
        return REL8;
    case 0xe8:
    case 0xe9:
        return REL32;
    default:
        break;
    }
    if (op >= 0xb0 && op <= 0xb7)
        return IMM8;
    return op >= 0xb8 && op <= 0xbf ? IMMZ : NONE;
}

/* Behind 0f. */
static unsigned shape_of_0f(uint8_t op)
{
    if (op >= 0x80 && op <= 0x8f)
        return REL32;
    if ((op >= 0xc8 && op <= 0xcf) || op == 0x05 || op == 0x0b || op == 0x31 || op == 0x77 ||
        op == 0xa2)
        return NONE;
    if ((op >= 0x70 && op <= 0x73) || op == 0xa4 || op == 0xac || op == 0xba || op == 0xc2 ||
        (op >= 0xc4 && op <= 0xc6))
        return MODRM | IMM8;
    if (op == 0x0d || (op >= 0x10 && op <= 0x1f) || (op >= 0x28 && op <= 0x2f) ||
        (op >= 0x40 && op <= 0x6f) || (op >= 0x74 && op <= 0x76) || (op >= 0x7c && op <= 0x7f) ||
        (op >= 0x90 && op <= 0x9f) || op == 0xa3 || op == 0xa5 || op == 0xab || op == 0xad ||
        op == 0xae || op == 0xaf || (op >= 0xb0 && op <= 0xb8) || (op >= 0xbb && op <= 0xc1) ||
        op == 0xc3 || op == 0xc7 || op >= 0xd0)
        return MODRM;
    return BAD;
}

struct cursor {
    const uint8_t *code;
    size_t left, at;
    bool wide, short_operand; /* REX.W, prefix 66 */
};

static bool take(struct cursor *c, uint8_t *ret)
{
    if (c->at >= c->left || c->at >= 15)
        return false;
    *ret = c->code[c->at++];
    return true;
}

static bool take_opcode(struct cursor *c, uint8_t *ret_op, uint8_t *ret_second, unsigned *ret_shape)
{
    uint8_t op;
    do {
        if (!take(c, &op))
            return false;
        c->short_operand |= op == 0x66;
    } while (op == 0x66 || op == 0xf0 || op == 0xf2 || op == 0xf3 || op == 0x2e || op == 0x36 ||
             op == 0x3e || op == 0x26 || op == 0x64 || op == 0x65);
    if ((op & 0xf0) == 0x40) {
        c->wide = (op & 8) != 0;
        if (!take(c, &op) || (op & 0xf0) == 0x40)
            return false;
    }
    *ret_op = op;
    *ret_second = 0;
    *ret_shape = op == 0x67 ? BAD : shape_of(op);
    if (op != 0x0f)
        return true;
    if (!take(c, ret_second))
        return false;
    *ret_shape = shape_of_0f(*ret_second);
    if (*ret_second == 0x38 || *ret_second == 0x3a) {
        *ret_shape = *ret_second == 0x38 ? MODRM : MODRM | IMM8;
        return take(c, ret_second);
    }
    return true;
}

/* Goes past ModRM, SIB and displacement. */
static bool take_modrm(struct cursor *c, uint8_t *ret_modrm, struct tm_x86 *ret)
{
    uint8_t modrm, sib;
    if (!take(c, &modrm))
        return false;
    *ret_modrm = modrm;
    unsigned mod = modrm >> 6, rm = modrm & 7;
    if (mod == 3)
        return true;
    size_t displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    if (rm == 4) {
        if (!take(c, &sib))
            return false;
        if (mod == 0 && (sib & 7) == 5)
            displacement = 4;
    } else if (mod == 0 && rm == 5) {
        displacement = 4;
        ret->kind = TM_X86_RIP_RELATIVE;
        ret->at = (uint8_t)c->at;
    }
    c->at += displacement;
    return true;
}

static void set_branch(struct tm_x86 *ret, uint8_t op, uint8_t second)
{
    if (op == 0xe8)
        ret->kind = TM_X86_CALL;
    else if (op == 0xe9 || op == 0xeb)
        ret->kind = TM_X86_JUMP;
    else
        ret->kind = op >= 0xe0 && op <= 0xe3 ? TM_X86_LOOP : TM_X86_BRANCH;
    ret->condition = (op == 0x0f ? second : op) & 15;
}

static enum tm_x86_flow flow_of(uint8_t op, uint8_t modrm, enum tm_x86_kind kind)
{
    unsigned extension = modrm >> 3 & 7;
    if (op == 0xe8 || (op == 0xff && (extension == 2 || extension == 3)))
        return TM_X86_CALLS;
    /* Through a slot of its own, beside the code, it is a call of another function. */
    if (op == 0xff && (extension == 4 || extension == 5) && kind != TM_X86_RIP_RELATIVE)
        return TM_X86_JUMPS_BY_MAP;
    return op == 0xcc ? TM_X86_TRAPS : TM_X86_ON;
}

bool tm_x86_decode(const uint8_t *code, size_t left, struct tm_x86 *ret)
{
    struct cursor c = {.code = code, .left = left};
    uint8_t op, second, modrm = 0;
    unsigned shape;
    *ret = (struct tm_x86){.kind = TM_X86_PLAIN};
    if (!take_opcode(&c, &op, &second, &shape) || shape & BAD)
        return false;
    /* Processors do not agree on what that is. */
    if (shape & REL32 && c.short_operand)
        return false;
    if (shape & MODRM && !take_modrm(&c, &modrm, ret))
        return false;
    /* test r/m, imm shares its opcode with instructions that have no immediate. */
    if ((op == 0xf6 || op == 0xf7) && (modrm >> 3 & 7) < 2)
        shape |= op == 0xf6 ? IMM8 : IMMZ;
    if (shape & (REL8 | REL32)) {
        set_branch(ret, op, second);
        ret->at = (uint8_t)c.at;
    }
    ret->flow = flow_of(op, modrm, ret->kind);
    size_t immediate = c.short_operand ? 2 : 4;
    if (c.wide && op >= 0xb8 && op <= 0xbf)
        immediate = 8;
    c.at += (shape & (IMM8 | REL8) ? 1 : 0) + (shape & IMM16 ? 2 : 0) + (shape & REL32 ? 4 : 0) +
            (shape & IMMZ ? immediate : 0);
    if (c.at > left || c.at > 15)
        return false;
    ret->bytes = (uint8_t)c.at;
    int32_t distance = 0;
    if (shape & REL8)
        distance = (int8_t)code[ret->at];
    else if (ret->kind != TM_X86_PLAIN)
        memcpy(&distance, code + ret->at, sizeof(distance));
    ret->target = (int64_t)c.at + distance;
    return true;
}

static bool put_distance(uint8_t *place, uint64_t target_addr, uint64_t next_addr)
{
    int64_t distance = (int64_t)(target_addr - next_addr);
    int32_t narrow = (int32_t)distance;
    memcpy(place, &narrow, sizeof(narrow));
    return narrow == distance;
}

/* One instruction to `to`, which has room for 16 bytes; returns the bytes of the copy, or 0. */
static size_t move_one(const struct tm_x86 *insn, const uint8_t *code, uint64_t from_addr,
                       uint8_t *to, uint64_t to_addr)
{
    uint64_t target_addr = from_addr + (uint64_t)insn->target;
    if (insn->flow == TM_X86_CALLS || insn->flow == TM_X86_TRAPS)
        return 0;
    if (insn->kind == TM_X86_PLAIN || insn->kind == TM_X86_RIP_RELATIVE) {
        memcpy(to, code, insn->bytes);
        if (insn->kind == TM_X86_RIP_RELATIVE &&
            !put_distance(to + insn->at, target_addr, to_addr + insn->bytes))
            return 0;
        return insn->bytes;
    }
    if (insn->kind != TM_X86_BRANCH)
        return 0;
    to[0] = 0x0f;
    to[1] = 0x80 | insn->condition;
    return put_distance(to + 2, target_addr, to_addr + 6) ? 6 : 0;
}

size_t tm_x86_move(const uint8_t *code, size_t code_bytes, uint64_t from_addr, size_t least_bytes,
                   uint8_t *to, size_t to_bytes, uint64_t to_addr, size_t *ret_bytes)
{
    size_t used = 0, made = 0, nearest_jump_back = SIZE_MAX;
    while (used < least_bytes) {
        struct tm_x86 insn;
        if (to_bytes - made < 16 || !tm_x86_decode(code + used, code_bytes - used, &insn))
            return 0;
        int64_t target = insn.target + (int64_t)used;
        if (insn.kind == TM_X86_BRANCH && target >= 0 && (size_t)target < nearest_jump_back)
            nearest_jump_back = (size_t)target;
        size_t n = move_one(&insn, code + used, from_addr + used, to + made, to_addr + made);
        if (n == 0)
            return 0;
        used += insn.bytes;
        made += n;
    }
    if (nearest_jump_back < used)
        return 0;
    *ret_bytes = made;
    return used;
}

bool tm_x86_enters(const uint8_t *code, size_t code_bytes, size_t n_bytes)
{
    struct tm_x86 insn;
    for (size_t at = 0; at < code_bytes; at += insn.bytes) {
        if (!tm_x86_decode(code + at, code_bytes - at, &insn) || insn.flow == TM_X86_JUMPS_BY_MAP)
            return true;
        int64_t target = insn.target + (int64_t)at;
        if (insn.kind != TM_X86_PLAIN && insn.kind != TM_X86_RIP_RELATIVE && target > 0 &&
            target < (int64_t)n_bytes)
            return true;
    }
    return false;
}

bool tm_x86_enters_from(const uint8_t *text, size_t text_bytes, const uint8_t *to, size_t n_bytes)
{
    for (size_t at = 0; at + 6 <= text_bytes; at++) {
        bool is_long = text[at] == 0x0f && (text[at + 1] & 0xf0) == 0x80;
        if (!is_long && text[at] != 0xe8 && text[at] != 0xe9)
            continue;
        int32_t distance;
        const uint8_t *place = text + at + (is_long ? 2 : 1);
        memcpy(&distance, place, sizeof(distance));
        uint64_t offset = (uintptr_t)place + 4 + (uint64_t)(int64_t)distance - (uintptr_t)to;
        if (offset - 1 < n_bytes - 1)
            return true;
    }
    return false;
}
