// SPDX-License-Identifier: MIT
/*
 * Reads the clocks, for the whole payload. Deadlines are CLOCK_MONOTONIC in
 * nanoseconds; TM_NEVER is later than all of them.
 */
#pragma once

#include <stdint.h>
#include <time.h>

#define TM_NEVER UINT64_MAX
#define TM_NS_PER_MS 1000000ull
#define TM_NS_PER_S 1000000000ull

static inline uint64_t tm_clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * TM_NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline uint64_t tm_clock_monotonic_ns(void)
{
    return tm_clock_ns(CLOCK_MONOTONIC);
}

static inline uint64_t tm_clock_real_ns(void)
{
    return tm_clock_ns(CLOCK_REALTIME);
}

/* The processor time of a thread of this process, up to this moment, where schedstat's is that of
 * its last tick or switch. 0: there is no such thread. The clock is that of pthread_getcpuclockid
 * (CPUCLOCK_PERTHREAD and CPUCLOCK_SCHED of linux/posix-timers.h). */
static inline uint64_t tm_clock_thread_ns(int tid)
{
    struct timespec ran = {0};

    clock_gettime((clockid_t)(~(unsigned)tid << 3 | 6), &ran);
    return (uint64_t)ran.tv_sec * TM_NS_PER_S + (uint64_t)ran.tv_nsec;
}

/* now + ms, TM_NEVER where that overflows. */
static inline uint64_t tm_clock_after_ms(uint64_t now_ns, uint64_t ms)
{
    uint64_t ns;

    if (__builtin_mul_overflow(ms, TM_NS_PER_MS, &ns) || __builtin_add_overflow(now_ns, ns, &ns))
        return TM_NEVER;
    return ns;
}
