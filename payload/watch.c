// SPDX-License-Identifier: MIT
#include "payload/watch.h"

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>

#include "payload/hooks.h"
#include "payload/store.h"

struct watch {
    int64_t low_bytes, high_bytes;
    tm_watch_fn *crossed; /* NULL: off */
    int64_t lowest_bytes, highest_bytes;
};

#define NOT_LEFT .lowest_bytes = INT64_MAX, .highest_bytes = -1

/* The lock below. */
static struct watch watches[TM_WATCHES] = {{NOT_LEFT}, {NOT_LEFT}};

/* A few instructions long. The word lies in the page that a forked child finds empty: a parent's
 * thread may hold it at the fork. */
static void lock(void)
{
    while (atomic_exchange_explicit(&tm_live->watch_lock, 1, memory_order_acquire) != 0)
        sched_yield();
}

static void unlock(void)
{
    atomic_store_explicit(&tm_live->watch_lock, 0, memory_order_release);
}

static void combine_locked(void)
{
    int64_t low = -1, high = INT64_MAX;
    bool any = false;
    for (int i = 0; i < TM_WATCHES; i++) {
        if (watches[i].crossed == NULL)
            continue;
        any = true;
        if (watches[i].low_bytes > low)
            low = watches[i].low_bytes;
        if (watches[i].high_bytes < high)
            high = watches[i].high_bytes;
    }
    __atomic_store_n(&tm_store.window_span, UINT64_MAX, __ATOMIC_RELAXED);
    __atomic_store_n(&tm_store.window_base, any ? (uint64_t)(low + 1) : 0, __ATOMIC_RELAXED);
    if (any)
        __atomic_store_n(&tm_store.window_span, high > low ? (uint64_t)(high - low - 1) : 0,
                         __ATOMIC_RELAXED);
}

void tm_watch_set(enum tm_watch_id id, int64_t low_bytes, int64_t high_bytes, tm_watch_fn *crossed)
{
    lock();
    watches[id].low_bytes = low_bytes;
    watches[id].high_bytes = high_bytes;
    watches[id].crossed = crossed;
    combine_locked();
    unlock();
}

void tm_watch_clear(enum tm_watch_id id)
{
    tm_watch_set(id, -1, INT64_MAX, NULL);
}

void tm_watch_take(enum tm_watch_id id, int64_t *ret_lowest_bytes, int64_t *ret_highest_bytes)
{
    lock();
    *ret_lowest_bytes = watches[id].lowest_bytes;
    *ret_highest_bytes = watches[id].highest_bytes;
    watches[id].lowest_bytes = INT64_MAX;
    watches[id].highest_bytes = -1;
    unlock();
}

void tm_watch_forget(void)
{
    for (int i = 0; i < TM_WATCHES; i++)
        watches[i] = (struct watch){NOT_LEFT};
}

void tm_watch_renew(void)
{
    lock();
    combine_locked();
    unlock();
}

void tm_watch_crossed(void)
{
    tm_watch_fn *fired[TM_WATCHES] = {NULL};
    lock();
    int64_t traced = tm_store_traced_bytes();
    for (int i = 0; i < TM_WATCHES; i++) {
        struct watch *watch = &watches[i];
        if (watch->crossed == NULL || (traced > watch->low_bytes && traced < watch->high_bytes))
            continue;
        fired[i] = watch->crossed;
        watch->crossed = NULL;
        if (traced < watch->lowest_bytes)
            watch->lowest_bytes = traced;
        if (traced > watch->highest_bytes)
            watch->highest_bytes = traced;
    }
    combine_locked();
    unlock();
    for (int i = 0; i < TM_WATCHES; i++)
        if (fired[i] != NULL)
            fired[i]();
}
