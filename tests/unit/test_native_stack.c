// SPDX-License-Identifier: MIT
/*
 * Which memory is taken for a thread's own stack: only that, whatever else can be
 * read up to its end; also where a control block's address comes again with
 * another stack, in a forked child, and without a call of the kernel for each of
 * several coroutines.
 */
#include "payload/native/stack.h"

#include <glib.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "payload/tstate.h"

enum { STACK = 1 << 20, PAGE = 4096 };

static struct tm_native_stack main_stack;
static guint calls;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d);

/* The one call that the module makes. */
long __wrap_syscall(long number, long a, long b, long c, long d)
{
    calls++;
    return __real_syscall(number, a, b, c, d);
}

static gboolean find(uint64_t sp, uint64_t *ret_high)
{
    return tm_native_stack_find(&main_stack, tm_tstate_thread_pointer(), sp, ret_high);
}

static uint64_t here(void)
{
    return (uint64_t)__builtin_frame_address(0);
}

static gboolean is_own(uint64_t sp, uint64_t expected_high)
{
    uint64_t high = 0;
    gboolean found = find(sp, &high);
    if (found)
        g_assert_cmphex(high, ==, expected_high);
    return found;
}

/* ---- a thread on a stack that it is given ---- */

struct work {
    void (*run)(void *memory);
    void *memory;
};

static void *thread_main(void *data)
{
    struct work *work = data;
    work->run(work->memory);
    return NULL;
}

static void run_on(void *low, gsize bytes, void (*run)(void *memory), void *memory)
{
    struct work work = {run, memory};
    pthread_attr_t attr;
    pthread_t thread;
    g_assert_cmpint(pthread_attr_init(&attr), ==, 0);
    if (low != NULL)
        g_assert_cmpint(pthread_attr_setstack(&attr, low, bytes), ==, 0);
    g_assert_cmpint(pthread_create(&thread, &attr, thread_main, &work), ==, 0);
    g_assert_cmpint(pthread_join(thread, NULL), ==, 0);
    pthread_attr_destroy(&attr);
}

static void setup_here(void *unused)
{
    (void)unused;
    tm_native_stack_setup();
}

/* As the agent does, in a thread of the C library's. */
static void setup(void)
{
    memset(&main_stack, 0, sizeof(main_stack));
    run_on(NULL, 0, setup_here, NULL);
    g_assert_cmphex(tm_native_main_stack_high, >, here());
}

static char *map(gsize bytes)
{
    char *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    g_assert_true(memory != MAP_FAILED);
    return memory;
}

/* ---- the tests ---- */

static __attribute__((noinline)) void descend(guint depth, uint64_t high)
{
    volatile char frame[3000];
    frame[0] = (char)depth;
    g_assert_true(is_own(here(), high));
    if (depth > 0)
        descend(depth - 1, high);
    frame[1] = frame[0];
}

static void check_own(void *unused)
{
    (void)unused;
    descend(100, tm_tstate_thread_pointer());
}

static void test_own(void)
{
    setup();
    descend(100, tm_native_main_stack_high);
    calls = 0;
    descend(100, tm_native_main_stack_high);
    g_assert_cmpuint(calls, ==, 0);
    for (guint i = 0; i < 3; i++)
        run_on(NULL, 0, check_own, NULL);
}

/* Everything from `memory` up to the control block can be read. */
static void check_below(void *memory)
{
    uint64_t high = tm_tstate_thread_pointer();
    g_assert_true(is_own(here(), high));
    g_assert_true(is_own((uint64_t)memory + STACK, high));
    for (guint i = 0; i < 3; i++) {
        g_assert_false(is_own((uint64_t)memory + STACK - 64, high));
        g_assert_false(is_own((uint64_t)memory + 4 * PAGE, high));
        g_assert_true(is_own(here(), high));
    }
}

static void test_gapless_below_thread(void)
{
    char *memory = map((gsize)2 * STACK);
    setup();
    run_on(memory + STACK, STACK, check_below, memory);
    munmap(memory, (gsize)2 * STACK);
}

/* The lowest address from which all can be read up to `address`. */
static uint64_t find_run(uint64_t address)
{
    g_autofree char *maps = NULL;
    uint64_t low = 0, end = 0;
    g_assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
    for (const char *line = maps; *line != '\0'; line = strchr(line, '\n') + 1) {
        char *at;
        uint64_t from = g_ascii_strtoull(line, &at, 16);
        uint64_t to = g_ascii_strtoull(at + 1, &at, 16);
        if (at[1] != 'r')
            continue;
        if (from != end)
            low = from;
        end = to;
        if (address < to)
            return from <= address ? low : 0;
    }
    return 0;
}

/* Before any thread was made, whose stack might come there. */
static void test_gapless_below_main(void)
{
    uint64_t low = find_run(tm_tstate_thread_pointer());
    char *memory = mmap((char *)low - STACK, STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (low == 0 || memory != (char *)low - STACK) {
        g_test_skip("there is something below the main thread's control block");
        return;
    }
    g_assert_cmphex(find_run(tm_tstate_thread_pointer()), <=, (uint64_t)memory);
    setup();
    g_assert_false(is_own((uint64_t)memory + STACK - 64, 0));
    g_assert_false(is_own(tm_tstate_thread_pointer() - 64, 0));
    munmap(memory, STACK);
    g_assert_true(is_own(here(), tm_native_main_stack_high));
}

static uint64_t first_thread;

static void check_whole(void *memory)
{
    first_thread = tm_tstate_thread_pointer();
    g_assert_true(is_own((uint64_t)memory + 4 * PAGE, first_thread));
}

static void check_upper_half(void *memory)
{
    g_assert_cmphex(tm_tstate_thread_pointer(), ==, first_thread);
    g_assert_false(is_own((uint64_t)memory + 4 * PAGE, first_thread));
    g_assert_false(is_own((uint64_t)memory + STACK - 64, first_thread));
    g_assert_true(is_own((uint64_t)memory + STACK, first_thread));
}

/* A control block where another one was, with a smaller stack below. */
static void test_same_place(void)
{
    char *memory = map((gsize)2 * STACK);
    setup();
    run_on(memory, (gsize)2 * STACK, check_whole, memory);
    run_on(memory + STACK, STACK, check_upper_half, memory);
    munmap(memory, (gsize)2 * STACK);
}

/* Two coroutines, each stack with a guard page below and above. */
static void check_alternating(void *unused)
{
    char *memory = map((gsize)2 * STACK + PAGE);
    uint64_t first = (uint64_t)memory + STACK - 64, second = first + STACK;
    guint first_calls = 0;
    (void)unused;
    for (guint k = 0; k < 3; k++)
        mprotect(memory + (gsize)k * STACK, PAGE, PROT_NONE);
    for (guint i = 0; i < 100; i++) {
        g_assert_false(is_own(first - i % 7 * 512, 0));
        g_assert_false(is_own(second - i % 5 * 512, 0));
        g_assert_true(is_own(here(), tm_tstate_thread_pointer()));
        if (i == 10)
            first_calls = calls;
    }
    g_assert_cmpuint(calls, ==, first_calls);
    munmap(memory, (gsize)2 * STACK + PAGE);
}

static void test_alternating(void)
{
    setup();
    run_on(NULL, 0, check_alternating, NULL);
}

/* The same where only the main thread's own end bounds them: near below its stack, where the kernel
 * puts none by itself. */
static void test_near_below_main(void)
{
    enum { COUNT = 6 };
    setup();
    uint64_t place = (tm_native_main_stack_high - (100 << 20)) & ~(uint64_t)(PAGE - 1);
    char *memory = mmap((void *)place, (gsize)COUNT * 4 * PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    guint first_calls = 0;
    g_assert_true(memory == (char *)place);
    for (guint k = 0; k < COUNT; k++)
        mprotect(memory + (gsize)(k * 4 + 3) * PAGE, PAGE, PROT_NONE);
    for (guint i = 0; i < 20; i++) {
        for (guint k = 0; k < COUNT; k++) {
            uint64_t sp = place + (uint64_t)(k * 4) * PAGE + (i % 2 ? 64 : 5000);
            g_assert_false(is_own(sp, 0));
        }
        g_assert_true(is_own(here(), tm_native_main_stack_high));
        if (i == 1)
            first_calls = calls;
    }
    g_assert_cmpuint(calls, ==, first_calls);
    munmap(memory, (gsize)COUNT * 4 * PAGE);
}

static void check_child(uint64_t high)
{
    int status;
    pid_t pid;
    g_assert_true(is_own(here(), high));
    pid = fork();
    if (pid == 0)
        _exit(is_own(here(), high) ? 0 : 1);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

static void check_fork(void *unused)
{
    (void)unused;
    check_child(tm_tstate_thread_pointer());
}

/* The thread that forks is the child's main one by its number, but not by its stack. */
static void test_fork(void)
{
    setup();
    run_on(NULL, 0, check_fork, NULL);
    check_child(tm_native_main_stack_high);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/native/stack/gapless-below-main", test_gapless_below_main);
    g_test_add_func("/native/stack/own", test_own);
    g_test_add_func("/native/stack/gapless-below-thread", test_gapless_below_thread);
    g_test_add_func("/native/stack/same-place", test_same_place);
    g_test_add_func("/native/stack/alternating", test_alternating);
    g_test_add_func("/native/stack/near-below-main", test_near_below_main);
    g_test_add_func("/native/stack/fork", test_fork);
    return g_test_run();
}
