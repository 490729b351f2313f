// SPDX-License-Identifier: MIT
/*
 * What is mapped in the target: one page of code (tm_stub_code), then struct tm_stub_data, then
 * the stack on which the borrowed thread calls pthread_create. All of it is mapped without write
 * permission; the code's first act is to make the rest writable and no longer executable. So
 * nothing is ever writable and executable, and nothing turns executable later, which is what
 * services with MemoryDenyWriteExecute are forbidden.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "format/boot.h"

#define TM_STUB_PAGE_BYTES 4096u
#define TM_STUB_DATA_BYTES 8192u
#define TM_STUB_STACK_BYTES 65536u
#define TM_STUB_BLOCK_BYTES (TM_STUB_PAGE_BYTES + TM_STUB_DATA_BYTES + TM_STUB_STACK_BYTES)

/*
 * Up to CPython 3.6 there is no GIL before the program's first thread, and a thread that is not
 * the program's cannot make one: PyEval_InitThreads takes the GIL for, and makes the main thread
 * of, whoever calls it (ceval.c, PyEval_InitThreads, 2.7 to 3.6). So the borrowed thread does it,
 * on its way to pthread_create, where it sleeps in a system call with its thread state put aside
 * (Py_BEGIN_ALLOW_THREADS). Without a GIL no system call is made between the steps of
 * PyEval_SaveThread and PyEval_RestoreThread, so it is not half-way through either.
 */
struct tm_stub_gil {
    uint64_t fn_is_made; /* PyEval_ThreadsInitialized; 0: nothing is to be done */
    uint64_t fn_make;    /* PyEval_InitThreads */
    uint64_t fn_this_state;
    uint64_t fn_restore;
    uint64_t fn_save;
    uint64_t current_state_addr; /* _PyThreadState_Current */
};

/* What keeps forks and the loader apart (inject_stub_forks.h). */
struct tm_stub_forks {
    uint64_t fn_register; /* __register_atfork; 0: forks are let be */
    uint64_t fn_finalize; /* __cxa_finalize; there where the other is */
    uint64_t prepare;     /* the handlers, in the block */
    uint64_t parent;
    uint64_t child;
    uint32_t registered;     /* written by the new thread */
    _Atomic uint32_t begun;  /* forks between their first handler and their last */
    _Atomic uint32_t inside; /* threads in a handler */
    _Atomic uint32_t seen;   /* forks since the attach */
};

/* Written by tm-attach before anything runs, but for the fields that say otherwise. Addresses are
 * the target's. The assembly in inject_stub_x86_64.c knows the first group's offsets. */
struct tm_stub_data {
    struct tm_boot boot;
    /* known to the assembly */
    uint64_t frame_sp; /* the borrowed thread's own stack: what rt_sigreturn reads */
    uint64_t restorer; /* libc's call of rt_sigreturn */
    uint64_t fn_munmap;
    _Atomic uint32_t borrow_done; /* the borrowed thread is on its way out of the block */
    int32_t create_error;         /* what pthread_create returned; -1: not yet */
    _Atomic uint32_t parked;      /* create_error is final; waits to be taken home */
    uint32_t park_ms;             /* how long it waits before it goes home alone; 0: not at all */
    uint64_t landing_return;      /* the return address that was replaced (inject_landing.c) */
    uint32_t landing_tid;         /* whose it was, as the thread itself sees it */
    uint32_t landing_reserved;
    /* libc's functions */
    uint64_t fn_pthread_create;
    uint64_t fn_attr_init;
    uint64_t fn_attr_setdetachstate;
    uint64_t fn_attr_setstacksize;
    uint64_t fn_dlopen;
    uint64_t fn_dlsym;
    uint64_t fn_dlclose;
    uint64_t fn_dlerror;
    uint64_t fn_errno_location;
    struct tm_stub_gil gil;
    struct tm_stub_forks forks;
    /* the new thread */
    uint64_t thread_entry;
    uint64_t stack_bytes;
    uint64_t signal_mask; /* what the new thread blocks */
    uint32_t memfd_flags;
    int32_t dlopen_flags;
    uint32_t payload_wait_ms;       /* for payload_ready */
    uint32_t error_wait_ms;         /* for boot.error_seen */
    _Atomic int32_t payload_fd;     /* set by the new thread: -1 not yet, < -1: -errno */
    _Atomic uint32_t payload_ready; /* set by tm-attach: 1 when the payload is in the memfd */
    uint32_t sleep_word;            /* always 0: a futex to sleep on */
    uint32_t reserved;
    uint64_t attr[16]; /* pthread_attr_t: 56 bytes on both libcs */
    uint64_t pthread;  /* pthread_t */
    char start_symbol[32];
    char memfd_name[48];
    char fd_path[160]; /* "/proc/thread-self/fd/", the new thread appends the number */
};

_Static_assert(sizeof(struct tm_stub_data) <= TM_STUB_DATA_BYTES, "the data pages are too few");
_Static_assert(offsetof(struct tm_stub_data, frame_sp) == 704, "the assembly knows it");
_Static_assert(offsetof(struct tm_stub_data, create_error) == 732, "the assembly knows it");
_Static_assert(offsetof(struct tm_stub_data, landing_return) == 744, "the assembly knows it");
_Static_assert(offsetof(struct tm_stub_data, landing_tid) == 752, "the assembly knows it");
_Static_assert(TM_STUB_DATA_BYTES + TM_STUB_STACK_BYTES == 73728, "the assembly knows it");
_Static_assert(offsetof(struct tm_boot, block_addr) == 40, "the assembly knows it");

/* The code page's contents: position-independent, no relocation, no data of its own. The linker
 * makes these two names for the section tm_stub. */
extern const uint8_t __start_tm_stub[];
extern const uint8_t __stop_tm_stub[];
/* Entry points in it. The borrowed thread: struct tm_stub_data in the first argument, the stack
 * pointer at a multiple of 16. Leaving: the same in the first argument, any stack; sets borrow_done
 * and goes home. The new thread: void *(*)(void *). */
extern const uint8_t tm_stub_borrow_entry[];
extern const uint8_t tm_stub_borrow_leave[];
extern const uint8_t tm_stub_thread_entry[];
/* The handlers of fork. */
void tm_stub_fork_prepare(void);
void tm_stub_fork_parent(void);
void tm_stub_fork_child(void);
/* For the payload, see struct tm_boot. */
void tm_stub_hold_forks(struct tm_boot *boot);
/* Where a thread lands that was to return out of an allocator. Returns as that would have, with the
 * allocator's result. A forked child that lands here only returns. */
extern const uint8_t tm_stub_land[];
