// SPDX-License-Identifier: MIT
/*
 * How long x86-64 instructions are and where they point to: enough of it to read
 * the whole of a compiled C function, and to move its first instructions to
 * another place. Reads the bytes it is given; calls nothing. What it does not
 * know (VEX, EVEX, what is invalid in 64-bit mode) it says it does not know.
 * Lengths: Intel SDM volume 2, chapter 2 and appendix A.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tm_x86_kind {
    TM_X86_PLAIN = 0,    /* means the same at any address */
    TM_X86_RIP_RELATIVE, /* an operand in memory is told by its distance */
    TM_X86_BRANCH,       /* jcc rel8 or rel32 */
    TM_X86_JUMP,         /* jmp rel8 or rel32 */
    TM_X86_CALL,         /* call rel32 */
    TM_X86_LOOP,         /* loop, jrcxz: rel8 only */
};

enum tm_x86_flow {
    TM_X86_ON = 0,       /* to the next instruction, or to `target` */
    TM_X86_CALLS,        /* pushes its own address: call of any kind */
    TM_X86_JUMPS_BY_MAP, /* jmp to what a register or a table says */
    TM_X86_TRAPS,        /* int3: a debugger's or the kernel's breakpoint */
};

struct tm_x86 {
    enum tm_x86_kind kind;
    enum tm_x86_flow flow;
    uint8_t bytes;     /* of the whole instruction */
    uint8_t at;        /* where the distance is; not of PLAIN */
    uint8_t condition; /* of BRANCH: the low 4 bits of the opcode */
    int64_t target;    /* where it points to, counted from the instruction's first byte */
};

/* False: not known, or it does not end within `left` bytes. */
bool tm_x86_decode(const uint8_t *code, size_t left, struct tm_x86 *ret);

/*
 * Copies whole instructions, at least `least_bytes`, from code that runs at from_addr to `to`, for
 * a run at to_addr. Returns how many bytes of the code that were, 0 where they cannot be moved
 * (what is not known, calls, jumps, breakpoints, what points in among them, too far away, no room).
 * *ret_bytes: of the copy.
 */
size_t tm_x86_move(const uint8_t *code, size_t code_bytes, uint64_t from_addr, size_t least_bytes,
                   uint8_t *to, size_t to_bytes, uint64_t to_addr, size_t *ret_bytes);

/* Whether some branch of the function points to one of its own bytes 1 to n_bytes - 1; true too
 * where that is not known: an instruction, or a jump by a table. */
bool tm_x86_enters(const uint8_t *code, size_t code_bytes, size_t n_bytes);

/* Whether a call, jmp or jcc rel32 points to one of the bytes 1 to n_bytes - 1 of `to`, which may
 * lie in the text or not. It is not known where instructions begin: any byte is taken for one. */
bool tm_x86_enters_from(const uint8_t *text, size_t text_bytes, const uint8_t *to, size_t n_bytes);
