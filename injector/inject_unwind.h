// SPDX-License-Identifier: MIT
/* The stack of a stopped thread, from .eh_frame alone. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "injector/arch.h"
#include "injector/inject_libc.h"
#include "inspect/module.h"

enum tm_frame_kind {
    TM_FRAME_OTHER = 0,
    TM_FRAME_LIBC,
    TM_FRAME_LDSO,
    TM_FRAME_MALLOC, /* in a library that brings a malloc of its own */
    TM_FRAME_VDSO,
};

struct tm_frame {
    uint64_t pc; /* a return address, but for the first and those after a signal frame */
    uint64_t sp; /* a caller's: behind the return address that was popped */
    const struct tm_module *module;
    enum tm_frame_kind kind;
    bool is_signal; /* the kernel's frame of a signal handler */
    bool exact_pc;  /* pc is where execution was, not a return address */
};

typedef struct tm_unwinder tm_unwinder;

/* Opens every module and its .eh_frame; milliseconds, so before anything is stopped. modules and
 * libc are borrowed until tm_unwinder_free. */
tm_unwinder *tm_unwinder_new(tm_modules *modules, const struct tm_inject_libc *libc);
void tm_unwinder_free(tm_unwinder *unwinder);
/* Reads the .eh_frame of all modules into memory. For each process: after a fork they would be
 * faulted in anew, page by page, while somebody is stopped. */
void tm_unwinder_load(const tm_unwinder *unwinder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_unwinder, tm_unwinder_free)

/* Walks from the registers outwards. frames (of struct tm_frame) is emptied first. True where the
 * walk came to the end of the stack; else frames has what could be walked. */
bool tm_unwinder_walk(tm_unwinder *unwinder, const uint64_t regs[TM_ARCH_DWARF_REGS],
                      GArray *frames);
/* The functions of the libc or allocator module that holds addr, and addr as a value of its file;
 * NULL where it lies in no such module. Borrowed. */
const tm_symbols *tm_unwinder_functions_at(const tm_unwinder *unwinder, uint64_t addr,
                                           uint64_t *ret_value);
/* Reads the target's memory through the walker's cache. */
bool tm_unwinder_read(tm_unwinder *unwinder, uint64_t addr, void *buffer, size_t n_bytes);
/* Forgets the memory that was read: the target has run since. */
void tm_unwinder_forget_memory(tm_unwinder *unwinder);
