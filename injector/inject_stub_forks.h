// SPDX-License-Identifier: MIT
/*
 * The part of the stub that keeps forks and the loader apart; included by the stub alone.
 *
 * A child that is forked while another thread is inside dlopen or dlclose finds the loader
 * half-way: glibc's fork sets dl_load_lock and dl_load_tls_lock free in the child, but not
 * dl_load_write_lock, and not what these protect (glibc 2.17 to 2.41, posix/fork.c and
 * nptl/fork.c). Its next dlopen waits for ever. So while our library comes or goes, fork waits for
 * us, and before it comes or goes we wait for forks that have begun: by handlers as pthread_atfork
 * has them, registered with the block's address for a name. Both waits are bounded; what then
 * happens is what happens without.
 *
 * The handlers lie in the block. They are taken back (__cxa_finalize by that name) before it is
 * unmapped, and `inside` tells whether a thread is still in one; between glibc's reading of their
 * address and the count lie a few instructions, for which the stub sleeps. Forks are held
 * meanwhile, also because a child must not inherit the lock that __cxa_finalize takes.
 */
#pragma once

#include "injector/inject_stub.h"

enum {
    FORK_STEP_US = 200,
    FORK_WAITS_US = 100000,   /* fork, for the loader */
    LOADER_WAITS_US = 500000, /* the stub, for forks; a large process takes long */
};

/* The page of this code lies in front of the data. */
STUB_INLINE struct tm_stub_data *own_data(void)
{
    uint64_t here;
    __asm__("lea 0(%%rip), %0" : "=r"(here));
    return (void *)((here & ~(uint64_t)(TM_STUB_PAGE_BYTES - 1)) + TM_STUB_PAGE_BYTES);
}

/* All accesses are sequentially consistent: one side says that it begins and looks at the other's
 * word, and so does the other. */
STUB void tm_stub_fork_prepare(void)
{
    struct tm_stub_data *data = own_data();
    atomic_fetch_add(&data->forks.inside, 1);
    atomic_fetch_add(&data->forks.seen, 1);
    for (uint32_t waited_us = 0;; waited_us += FORK_STEP_US) {
        atomic_fetch_add(&data->forks.begun, 1);
        if (atomic_load(&data->boot.loader_busy) == 0 || waited_us >= FORK_WAITS_US)
            break;
        atomic_fetch_sub(&data->forks.begun, 1);
        sleep_ns(data, FORK_STEP_US * 1000);
    }
    atomic_fetch_sub(&data->forks.inside, 1);
}

STUB void tm_stub_fork_parent(void)
{
    struct tm_stub_data *data = own_data();
    atomic_fetch_add(&data->forks.inside, 1);
    atomic_fetch_sub(&data->forks.begun, 1);
    atomic_fetch_sub(&data->forks.inside, 1);
}

/* In the child nobody is in the loader, and nobody else is in a handler. */
STUB void tm_stub_fork_child(void)
{
    struct tm_stub_data *data = own_data();
    atomic_store(&data->boot.loader_busy, 0);
    atomic_store(&data->forks.begun, 0);
    atomic_store(&data->forks.inside, 0);
}

STUB_INLINE void hold_forks(struct tm_stub_data *data)
{
    atomic_store(&data->boot.loader_busy, 1);
    if (!data->forks.registered)
        return;
    for (uint32_t waited_us = 0;
         atomic_load(&data->forks.begun) != 0 && waited_us < LOADER_WAITS_US;
         waited_us += FORK_STEP_US)
        sleep_ns(data, FORK_STEP_US * 1000);
}

STUB void tm_stub_hold_forks(struct tm_boot *boot)
{
    hold_forks((struct tm_stub_data *)(void *)boot); /* its first member */
}

STUB_INLINE void let_fork(struct tm_stub_data *data)
{
    atomic_store(&data->boot.loader_busy, 0);
}

STUB_INLINE void register_fork_handlers(struct tm_stub_data *data)
{
    int (*add)(void *, void *, void *, void *) = (void *)data->forks.fn_register;
    if (add != NULL)
        data->forks.registered = add((void *)data->forks.prepare, (void *)data->forks.parent,
                                     (void *)data->forks.child, (void *)data->boot.block_addr) == 0;
}

STUB_INLINE void take_back_fork_handlers(struct tm_stub_data *data)
{
    void (*finalize)(void *) = (void *)data->forks.fn_finalize;
    if (!data->forks.registered)
        return;
    hold_forks(data);
    finalize((void *)data->boot.block_addr);
    let_fork(data);
    while (atomic_load(&data->forks.inside) != 0)
        sleep_ns(data, 1000000);
    /* Where there are forks, one may have been stopped in between for longer than is usual. */
    for (int i = 0; i < 5 && atomic_load(&data->forks.seen) != 0; i++)
        sleep_ns(data, 20000000);
}
