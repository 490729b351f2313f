// SPDX-License-Identifier: MIT
/*
 * Calls along a path that the caller writes, for tests/live/victims/native_paths.py:
 * each digit is a function that calls the next one, p and q call back into
 * Python, and what takes the block is called by the last.
 */
#include <alloca.h>
#include <stddef.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define STEP EXPORT __attribute__((noinline)) void *

typedef void *malloc_t(size_t);
struct walk;
typedef void *step_t(struct walk *);

struct walk {
    const char *at;
    malloc_t *malloc;
    size_t size;
    void *(*python_p)(void), *(*python_q)(void);
};

STEP tm_paths_0(struct walk *walk);
STEP tm_paths_1(struct walk *walk);
STEP tm_paths_2(struct walk *walk);
STEP tm_paths_3(struct walk *walk);
STEP tm_paths_4(struct walk *walk);
static step_t *const steps[] = {tm_paths_0, tm_paths_1, tm_paths_2, tm_paths_3, tm_paths_4};

/* Part of each function, whose frame it is called from. */
static inline __attribute__((always_inline)) void *next(struct walk *walk)
{
    char step = *walk->at++;
    if (step == '\0')
        return walk->malloc(walk->size);
    if (step == 'p')
        return walk->python_p();
    if (step == 'q')
        return walk->python_q();
    return steps[step - '0'](walk);
}

/* Not as the last thing, which would be no call. */
static inline __attribute__((always_inline)) void *keep(void *block)
{
    __asm__ volatile("" : "+r"(block)::"memory");
    return block;
}

STEP tm_paths_0(struct walk *walk)
{
    return keep(next(walk));
}

STEP tm_paths_1(struct walk *walk)
{
    volatile char frame[200];
    frame[0] = 1;
    void *block = next(walk);
    frame[1] = frame[0];
    return keep(block);
}

/* By rbp. */
STEP tm_paths_2(struct walk *walk)
{
    char *frame = alloca(16 + walk->size % 64);
    __asm__ volatile("" ::"r"(frame) : "memory");
    return keep(next(walk));
}

/* Two places in one function. */
STEP tm_paths_3(struct walk *walk)
{
    if (strlen(walk->at) % 2 != 0)
        return keep(next(walk));
    __asm__ volatile("nop");
    return keep(next(walk));
}

/* A realigned stack. */
STEP tm_paths_4(struct walk *walk)
{
    volatile char frame[64] __attribute__((aligned(64)));
    char *more = alloca(32 + walk->size % 32);
    __asm__ volatile("" ::"r"(more) : "memory");
    frame[0] = 1;
    void *block = next(walk);
    frame[1] = frame[0];
    return keep(block);
}

/* The first step, or the next after Python. */
EXPORT void *tm_paths_go(struct walk *walk)
{
    return keep(next(walk));
}
