// SPDX-License-Identifier: MIT
#include "payload/native/stack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "payload/mem.h"

enum { STACK_MAX_BYTES = 256 << 20 };

uint64_t tm_native_main_stack_high;

/* Field 28 of /proc/self/stat: where the program's arguments begin, above all frames of the main
 * thread. */
void tm_native_stack_setup(void)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *at = strrchr(text, ')');
    for (int field = 2; at != NULL && field < 28; field++) {
        at = strchr(at, ' ');
        if (at != NULL)
            at++;
    }
    uint64_t value = 0;
    for (; at != NULL && *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    tm_native_main_stack_high = value;
}

/* The kernel reads the new mask before it looks at `how`, of which there is none of this number:
 * EFAULT where that fails, EINVAL where it can be read (kernel/signal.c). Nothing is changed, and
 * every program may make this call. mincore says of a guard page that it is there. */
bool tm_native_is_readable(uint64_t addr)
{
    enum { NO_SUCH_HOW = 0x7fffffff, MASK_BYTES = 8 };
    int saved_errno = errno;
    bool readable =
        syscall(SYS_rt_sigprocmask, NO_SUCH_HOW, addr, 0, MASK_BYTES) != 0 && errno == EINVAL;
    errno = saved_errno;
    return readable;
}

/* Where the first page is that cannot be read; `high` where there is none. */
static uint64_t first_gap(uint64_t low, uint64_t high)
{
    low &= ~(uint64_t)(TM_MEM_PAGE_BYTES - 1);
    while (low < high && tm_native_is_readable(low))
        low += TM_MEM_PAGE_BYTES;
    return low < high ? low : high;
}

/* A thread's control block lies at the upper end of the stack that the C library made for it; the
 * main thread's stack ends where the kernel put the arguments. Another stack (of a coroutine, or
 * one that the program gave) has a guard page or nothing between, and is not known. */
__attribute__((noinline, cold)) bool tm_native_stack_look(struct tm_native_stack *stack,
                                                          uintptr_t thread, uint64_t sp)
{
    bool same = stack->thread == thread;
    uint64_t high = thread > sp ? thread : 0;
    if (tm_native_main_stack_high > sp && (high == 0 || tm_native_main_stack_high < high))
        high = tm_native_main_stack_high;
    if (high == 0 || high - sp > STACK_MAX_BYTES)
        return false;
    if (same && sp - stack->bad_low < stack->bad_high - stack->bad_low)
        return false;
    /* What was looked at before is not looked at again: a recursion goes down step by step. */
    uint64_t known = same && stack->high == high && sp < stack->low ? stack->low : high;
    uint64_t gap = first_gap(sp, known);
    if (!same)
        *stack = (struct tm_native_stack){.thread = thread};
    if (gap < known) {
        stack->bad_low = sp;
        stack->bad_high = gap;
        return false;
    }
    stack->low = sp;
    stack->high = high;
    return true;
}
