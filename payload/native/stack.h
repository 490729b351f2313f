// SPDX-License-Identifier: MIT
/*
 * Which stack a thread runs on. A hook must not fault on whatever stack it is
 * called, and a wrong rbp can lead anywhere within the bounds that are given
 * here. So they are those of the thread's own stack, and are given only while sp
 * lies on it: what is between sp and a stack's end holds the frames of callers,
 * and stays where it is as long as they have not returned. Of any other memory
 * nothing can be said, even where it can be read up to the thread's own end now.
 *
 * Where a stack lies is not kept by thread, since a control block's address comes
 * again with another stack. It is read where the C library keeps it:
 *
 *   a thread that was made   struct pthread.stackblock, the lowest address of its
 *                            stack; the struct is the thread's control block and
 *                            lies at the upper end (glibc, nptl/allocatestack.c)
 *   the main thread          the same field is NULL; its stack ends where the
 *                            kernel put the arguments, and reaches down as far as
 *                            it was found readable without a gap
 *
 * A child has of the stack of the thread that forked it the same as that had.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { TM_NATIVE_BAD_STACKS = 8 };

/* What a lane knows of the main thread's stack. */
struct tm_native_stack {
    uint64_t low, high; /* readable; high 0: not looked at yet */
    struct {
        uint64_t low, high;
    } bad[TM_NATIVE_BAD_STACKS]; /* there is no way from here to the end; the last found is first */
};

/* Where the main thread's frames end; 0: not known. */
extern uint64_t tm_native_main_stack_high;
/* Of stackblock in a control block. 0: not known, and there lies the block's own address, so that
 * no stack is between. */
extern uint64_t tm_native_stackblock_offset;

/* In a thread that the C library made. */
void tm_native_stack_setup(void);
/* True where eight bytes at `addr` can be read. Any thread. */
bool tm_native_is_readable(uint64_t addr);
/* Slow half of tm_native_stack_find, for the main thread. */
bool tm_native_stack_look(struct tm_native_stack *stack, uintptr_t thread, uint64_t sp);

/* tm_native_stack_find without its slow half: false where that has to look. */
__attribute__((always_inline)) static inline bool
tm_native_stack_known(const struct tm_native_stack *stack, uintptr_t thread, uint64_t sp,
                      uint64_t *ret_high)
{
    uint64_t low = *(const uint64_t *)(thread + tm_native_stackblock_offset), high = thread;
    if (low == 0) {
        low = stack->low;
        high = stack->high;
    }
    *ret_high = high;
    return __builtin_expect(sp >= low && sp < high, 1);
}

/* The stack of `thread`, which is the calling one, from `sp` up to ret_high. False: it is on a
 * stack that is not its own. */
__attribute__((always_inline)) static inline bool
tm_native_stack_find(struct tm_native_stack *stack, uintptr_t thread, uint64_t sp,
                     uint64_t *ret_high)
{
    if (tm_native_stack_known(stack, thread, sp, ret_high))
        return true;
    if (!tm_native_stack_look(stack, thread, sp))
        return false;
    *ret_high = stack->high;
    return true;
}
