// SPDX-License-Identifier: MIT
// Inlined, tail-called, realigned and C++ functions between two Python frames.
#include <cstdlib>
#include <cstring>

typedef int callback_t(int);

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
    alignas(64) char buffer[64];
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
