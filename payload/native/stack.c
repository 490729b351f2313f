// SPDX-License-Identifier: MIT
#include "payload/native/stack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "payload/mem.h"
#include "payload/tstate.h"

enum { MAIN_STACK_MAX_BYTES = 256 << 20, CONTROL_BLOCK_MAX_BYTES = 8192 };

uint64_t tm_native_main_stack_high, tm_native_stackblock_offset;

/* Field 28 of /proc/self/stat: where the program's arguments begin, above all frames of the main
 * thread. */
static uint64_t find_main_stack_high(void)
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
    return value;
}

/* struct pthread is not published, and this field's place has changed with releases. Two words of
 * it that follow one another say where the calling thread's stack begins and how large it is, the
 * control block included (stackblock, stackblock_size). Only what lies on that stack is read. 0
 * where no pair of words can be that, or more than one. */
static uint64_t find_stackblock_offset(void)
{
    uint64_t thread = tm_tstate_thread_pointer(), found = 0;
    uint64_t sp = (uint64_t)__builtin_frame_address(0), end = thread + CONTROL_BLOCK_MAX_BYTES;
    for (uint64_t at = thread; at + 2 * sizeof(uint64_t) <= end; at += sizeof(uint64_t)) {
        if (at % TM_MEM_PAGE_BYTES >= TM_MEM_PAGE_BYTES - sizeof(uint64_t) || at == thread) {
            if (!tm_native_is_readable(at) || !tm_native_is_readable(at + sizeof(uint64_t)))
                break;
        }
        uint64_t low = *(const uint64_t *)at, bytes = ((const uint64_t *)at)[1];
        if (low == 0 || low % TM_MEM_PAGE_BYTES != 0 || low > sp || sp >= thread ||
            bytes <= thread - low || bytes - (thread - low) > CONTROL_BLOCK_MAX_BYTES)
            continue;
        if (found != 0)
            return 0;
        found = at - thread;
        if (low + bytes < end)
            end = low + bytes;
    }
    return found;
}

void tm_native_stack_setup(void)
{
    tm_native_main_stack_high = find_main_stack_high();
    tm_native_stackblock_offset = find_stackblock_offset();
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

/* There is no way from `low` to the main stack: the page at `high` cannot be read. */
static void keep_bad(struct tm_native_stack *stack, uint64_t low, uint64_t high)
{
    int n = 0;
    while (n < TM_NATIVE_BAD_STACKS - 1 && stack->bad[n].high != high)
        n++;
    memmove(stack->bad + 1, stack->bad, (size_t)n * sizeof(stack->bad[0]));
    stack->bad[0].low = low;
    stack->bad[0].high = high;
}

static bool is_bad(const struct tm_native_stack *stack, uint64_t sp)
{
    for (int i = 0; i < TM_NATIVE_BAD_STACKS; i++)
        if (sp - stack->bad[i].low < stack->bad[i].high - stack->bad[i].low)
            return true;
    return false;
}

/*
 * The kernel places no mapping within 128 MB of the main stack's end (arch/x86/mm/mmap.c), or its
 * limit where that is higher, and lets the stack come no nearer to another than 1 MB. Other memory
 * that is found here was put there by MAP_FIXED, or the limit was raised since, and a gap is found
 * between. Not a word is read in that gap but the first, which is too near to the mapping below for
 * the kernel to let the stack grow down to it. Nothing but this one call is made, which no filter
 * (seccomp) forbids.
 *
 * A range that was found bad stays so. Should the main stack ever grow down to there, it is taken
 * for another, which is said in the traceback.
 */
__attribute__((noinline, cold)) bool tm_native_stack_look(struct tm_native_stack *stack,
                                                          uintptr_t thread, uint64_t sp)
{
    uint64_t high = tm_native_main_stack_high;
    uint64_t offset = tm_native_stackblock_offset;
    if (offset != 0 && *(const uint64_t *)(thread + offset) != 0)
        return false; /* not the main thread */
    if (sp >= high || high - sp > MAIN_STACK_MAX_BYTES || is_bad(stack, sp))
        return false;
    /* What was looked at before is not looked at again: a recursion goes down step by step. */
    uint64_t known = stack->high == high ? stack->low : high;
    if (sp >= known)
        return true; /* where no control block can be asked, each call comes here */
    uint64_t gap = first_gap(sp, known);
    if (gap < known) {
        keep_bad(stack, sp, gap);
        return false;
    }
    stack->low = sp & ~(uint64_t)(TM_MEM_PAGE_BYTES - 1);
    stack->high = high;
    return true;
}
