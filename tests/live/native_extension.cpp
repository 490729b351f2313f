// SPDX-License-Identifier: MIT
// Inlined, tail-called, realigned and C++ functions between two Python frames.
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>

typedef int callback_t(int);

#ifndef TM_BUFFER // another frame, all else the same
#define TM_BUFFER 64
#endif

namespace outer
{
template <typename T> struct Keeper {
    callback_t *callback;

    __attribute__((noinline)) T keep(T value)
    {
        return callback(value) + 1; // not a tail call
    }
};
} // namespace outer

static inline __attribute__((always_inline)) int innermost(callback_t *callback, int value)
{
    outer::Keeper<int> keeper = {callback};
    return keeper.keep(value) + 2;
}

static inline __attribute__((always_inline)) int middle(callback_t *callback, int value)
{
    return innermost(callback, value * 2) + 3;
}

// The stack is realigned: the CFA is behind a pointer.
static __attribute__((noinline)) int realigned(callback_t *callback, int value)
{
    alignas(64) char buffer[TM_BUFFER];
    std::memset(buffer, value, sizeof buffer);
    __asm__ volatile("" : : "r"(buffer) : "memory");
    return middle(callback, buffer[3]) + buffer[5];
}

// A frame whose size is known at run time only: rbp holds it.
static __attribute__((noinline)) int variable(callback_t *callback, int value)
{
    char *buffer = static_cast<char *>(__builtin_alloca(static_cast<size_t>(value) * 16));
    __asm__ volatile("" : : "r"(buffer) : "memory");
    return realigned(callback, value) + buffer[0] * 0;
}

// Gone from the stack when the callback runs.
static __attribute__((noinline)) int tail(callback_t *callback, int value)
{
    return variable(callback, value + 1);
}

extern "C" __attribute__((visibility("default"))) int tm_test_enter(callback_t *callback, int value)
{
    return tail(callback, value) + 4;
}

// On a stack as a coroutine library makes it: between two guard pages.
static ucontext_t outside, inside;
static callback_t *other_callback;

static void run_inside()
{
    other_callback(7);
}

extern "C" __attribute__((visibility("default"))) int tm_test_other_stack(callback_t *callback,
                                                                          int value)
{
    const size_t page = 4096, size = 1 << 20;
    char *stack = static_cast<char *>(mmap(nullptr, size + 2 * page, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (stack == MAP_FAILED)
        return -1;
    mprotect(stack, page, PROT_NONE);
    mprotect(stack + page + size, page, PROT_NONE);
    other_callback = callback;
    getcontext(&inside);
    inside.uc_stack.ss_sp = stack + page;
    inside.uc_stack.ss_size = size;
    inside.uc_link = &outside;
    makecontext(&inside, run_inside, 0);
    swapcontext(&outside, &inside);
    munmap(stack, size + 2 * page);
    return value;
}
