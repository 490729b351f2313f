// SPDX-License-Identifier: MIT
/*
 * The current thread state without a call, where the interpreter keeps it in a
 * place that can be known: a global variable up to 3.11, a thread-local one in
 * the static TLS block from 3.12 on. Found at setup, checked against the C API.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "payload/state.h"

enum tm_tstate_access {
    TM_TSTATE_BY_CALL = 0,
    TM_TSTATE_GLOBAL = 1,
    TM_TSTATE_TLS = 2,
};

extern enum tm_tstate_access tm_tstate_access;
extern const uint64_t *tm_tstate_global TM_HIDDEN; /* GLOBAL */
extern int64_t tm_tstate_tls_offset TM_HIDDEN;     /* TLS: from the thread pointer */

/* Asks the loader where the interpreter's TLS block is. Without the GIL, where that can be: the
 * loader's lock may be held by a thread that waits for the GIL in a constructor. */
void tm_tstate_look(void);

/* Finds the place, on the thread that called tm_tstate_look. GIL. Leaves BY_CALL where it cannot
 * tell. */
void tm_tstate_setup(void);

static inline uintptr_t tm_tstate_thread_pointer(void)
{
    uintptr_t self;
#if defined(__x86_64__)
    __asm__("mov %%fs:0, %0" : "=r"(self));
#elif defined(__aarch64__)
    __asm__("mrs %0, tpidr_el0" : "=r"(self));
#else
#error "no thread pointer known for this machine"
#endif
    return self;
}

/* The word at `offset` from the thread pointer. */
static inline uint64_t tm_tstate_thread_word(int64_t offset)
{
#if defined(__x86_64__)
    uint64_t word;
    __asm__ volatile("mov %%fs:(%1), %0" : "=r"(word) : "r"(offset));
    return word;
#else
    return *(const uint64_t *)(tm_tstate_thread_pointer() + (uint64_t)offset);
#endif
}
