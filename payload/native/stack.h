// SPDX-License-Identifier: MIT
/*
 * What of a thread's stack may be read. A hook must not fault on whatever stack
 * it runs: only what was found readable without a gap up to the end of the
 * thread's own stack is looked at.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { TM_NATIVE_THREADS = 64 };

struct tm_native_stack {
    uintptr_t thread;           /* 0: empty */
    uint64_t low, high;         /* readable */
    uint64_t bad_low, bad_high; /* there is no way from here to the thread's own end */
};

/* Where the main thread's frames end; 0: not known. */
extern uint64_t tm_native_main_stack_high;

void tm_native_stack_setup(void);
/* True where eight bytes at `addr` can be read. Any thread. */
bool tm_native_is_readable(uint64_t addr);
/* Slow half of tm_native_stack_find. */
bool tm_native_stack_look(struct tm_native_stack *stack, uintptr_t thread, uint64_t sp);

/* tm_native_stack_find without its slow half: false where it was not looked at. */
__attribute__((always_inline)) static inline bool
tm_native_stack_known(const struct tm_native_stack *stacks, uintptr_t thread, uint64_t sp,
                      uint64_t *ret_high)
{
    const struct tm_native_stack *stack =
        &stacks[(thread >> 6 ^ thread >> 12) & (TM_NATIVE_THREADS - 1)];
    *ret_high = stack->high;
    return __builtin_expect(stack->thread == thread && sp >= stack->low && sp < stack->high, 1);
}

/* The stack of `thread`, from `sp` up to ret_high. False: it is on a stack that is not its own. */
__attribute__((always_inline)) static inline bool
tm_native_stack_find(struct tm_native_stack *stacks, uintptr_t thread, uint64_t sp,
                     uint64_t *ret_high)
{
    struct tm_native_stack *stack = &stacks[(thread >> 6 ^ thread >> 12) & (TM_NATIVE_THREADS - 1)];
    if (__builtin_expect(stack->thread != thread || sp < stack->low || sp >= stack->high, 0) &&
        !tm_native_stack_look(stack, thread, sp))
        return false;
    *ret_high = stack->high;
    return true;
}
