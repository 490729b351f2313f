// SPDX-License-Identifier: MIT
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "injector/arch.h"
#include "injector/errors.h"
#include "injector/inject.h"
#include "injector/inject_landing.h"
#include "injector/inject_place.h"
#include "injector/inject_safe.h"
#include "injector/inject_stub.h"

static void errors_have_statuses(void)
{
    for (int i = 0; i < TM_ATTACH_ERRORS; i++) {
        g_assert_cmpint(tm_attach_error_exit_status(i), >=, 10);
        g_assert_nonnull(tm_attach_error_name(i));
        for (int j = 0; j < i; j++) {
            g_assert_cmpint(tm_attach_error_exit_status(i), !=, tm_attach_error_exit_status(j));
            g_assert_cmpstr(tm_attach_error_name(i), !=, tm_attach_error_name(j));
        }
    }
    g_assert_cmpint(tm_attach_error_exit_status(-1), ==, 1);
    g_assert_cmpint(tm_attach_error_exit_status(TM_ATTACH_ERRORS), ==, 1);
}

static void decode_calls(void)
{
    const uint8_t direct[8] = {0, 0, 0, 0xe8, 0x10, 0, 0, 0};
    const uint8_t slot[8] = {0, 0, 0xff, 0x15, 0xf0, 0xff, 0xff, 0xff};
    const uint8_t reg[8] = {0, 0, 0, 0, 0, 0, 0xff, 0xd0};
    const uint8_t plt[16] = {0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0x00, 0x01, 0, 0};
    uint64_t addr = 0;
    g_assert_cmpint(tm_arch_decode_call(direct, 8, 0x1000, &addr), ==, TM_ARCH_CALL_DIRECT);
    g_assert_cmphex(addr, ==, 0x1010);
    g_assert_cmpint(tm_arch_decode_call(slot, 8, 0x1000, &addr), ==, TM_ARCH_CALL_SLOT);
    g_assert_cmphex(addr, ==, 0xff0);
    g_assert_cmpint(tm_arch_decode_call(reg, 8, 0x1000, &addr), ==, TM_ARCH_CALL_UNKNOWN);
    g_assert_true(tm_arch_decode_plt(plt, 16, 0x2000, &addr));
    g_assert_cmphex(addr, ==, 0x2000 + 11 + 0x100);
    g_assert_false(tm_arch_decode_plt(direct, 8, 0x2000, &addr));
}

static void names(void)
{
    static const char *const safe[] = {"read",           "__read",      "__GI___poll",
                                       "__new_sem_wait", "__libc_read", "___pthread_cond_wait",
                                       "clock_nanosleep"};
    static const char *const unsafe[] = {"malloc", "__libc_malloc",  "_int_free", "fork", "dlopen",
                                         "printf", "pthread_create", "exit",      "",     "_"};
    for (size_t i = 0; i < G_N_ELEMENTS(safe); i++)
        g_assert_true(tm_inject_name_is_safe(safe[i], -1));
    for (size_t i = 0; i < G_N_ELEMENTS(unsafe); i++)
        g_assert_false(tm_inject_name_is_safe(unsafe[i], -1));
    g_assert_false(tm_inject_name_is_safe("pthread_join", -1));
    g_assert_true(tm_inject_name_is_safe("pthread_join", SYS_futex));
}

static void allocator_names(void)
{
    static const char *const yes[] = {"malloc", "__libc_calloc", "__GI___libc_free",
                                      "posix_memalign"};
    static const char *const no[] = {"mallopt", "fork", "vfork", "_int_malloc", "strdup", ""};
    for (size_t i = 0; i < G_N_ELEMENTS(yes); i++)
        g_assert_true(tm_landing_name_is_allocator(yes[i]));
    for (size_t i = 0; i < G_N_ELEMENTS(no); i++)
        g_assert_false(tm_landing_name_is_allocator(no[i]));
}

/* Only what the stop has made of a call that waits for ever, or of any where that is asked for. */
static void restart_calls(void)
{
    struct user_regs_struct regs = {.orig_rax = SYS_epoll_wait,
                                    .rax = (unsigned long long)-EINTR,
                                    .r10 = (unsigned long long)-1};
    g_assert_true(tm_arch_restart_fragile(&regs, TM_ARCH_RESTART_ENDLESS));
    g_assert_cmpint((long)regs.rax, ==, -514);
    g_assert_false(tm_arch_restart_fragile(&regs, TM_ARCH_RESTART_ENDLESS));
    regs.rax = (unsigned long long)-EINTR;
    regs.r10 = 1000;
    g_assert_false(tm_arch_restart_fragile(&regs, TM_ARCH_RESTART_ENDLESS));
    g_assert_true(tm_arch_restart_fragile(&regs, TM_ARCH_RESTART_ALL));
    regs.rax = (unsigned long long)-EINTR;
    regs.orig_rax = SYS_read;
    g_assert_false(tm_arch_restart_fragile(&regs, TM_ARCH_RESTART_ALL));
    regs.orig_rax = (unsigned long long)-1;
    g_assert_false(tm_arch_restart_fragile(&regs, TM_ARCH_RESTART_ALL));
}

/* The frame lies below the red zone, is aligned as the kernel asks, and makes an interrupted
 * call anew or returns EINTR where the rest of its timeout is lost. */
static void frame_of(long number, long result, long arg1, struct tm_arch_frame *frame)
{
    static struct tm_arch_state state;
    memset(&state, 0, sizeof(state));
    state.xstate_bytes = 576;
    state.regs.rsp = 0x7fff12345678;
    state.regs.rip = 0x401002;
    state.regs.orig_rax = (unsigned long long)number;
    state.regs.rax = (unsigned long long)result;
    state.regs.rsi = (unsigned long long)arg1;
    tm_arch_build_frame(&state, 0x1234, frame);
    g_assert_cmphex(frame->addr + frame->n_bytes, <=, 0x7fff12345678 - 128);
    g_assert_cmphex(tm_arch_frame_sp(frame) % 16, ==, 0);
}

static uint64_t frame_word(const struct tm_arch_frame *frame, size_t offset)
{
    uint64_t word;
    memcpy(&word, frame->bytes + 8 + 40 + offset, sizeof(word));
    return word;
}

#define SC_DI 64
#define SC_SI 72
#define SC_AX 104
#define SC_SP 120
#define SC_IP 128
#define SC_FPSTATE 184

static void frames(void)
{
    static struct tm_arch_frame frame;
    frame_of(SYS_read, -512, 0, &frame);
    g_assert_cmpuint(frame_word(&frame, SC_AX), ==, SYS_read);
    g_assert_cmphex(frame_word(&frame, SC_IP), ==, 0x401000);
    g_assert_cmphex(frame_word(&frame, SC_FPSTATE) % 64, ==, 0);
    frame_of(SYS_nanosleep, -516, 0, &frame);
    g_assert_cmpint((int64_t)frame_word(&frame, SC_AX), ==, -4);
    g_assert_cmphex(frame_word(&frame, SC_IP), ==, 0x401002);
    frame_of(SYS_futex, -516, 9 | 128, &frame);
    g_assert_cmpuint(frame_word(&frame, SC_AX), ==, SYS_futex);
    frame_of(-1, 77, 0, &frame);
    g_assert_cmpuint(frame_word(&frame, SC_AX), ==, 77);
    g_assert_cmphex(frame_word(&frame, SC_IP), ==, 0x401002);
}

/* A system call on the way home, behind it the frame as it was. */
static void frame_with_a_call_first(void)
{
    static struct tm_arch_frame frame, plain;
    static struct tm_arch_state state;
    const uint64_t args[6] = {0x123000, 77};
    frame_of(SYS_read, -512, 0, &plain);
    frame = plain;
    tm_arch_frame_call_first(&state, 0xabc, SYS_munmap, args, &frame);
    size_t distance = (size_t)(frame.addr - frame.first_addr);
    g_assert_cmphex(frame.addr, ==, plain.addr);
    g_assert_cmphex((frame.first_addr + 8) % 16, ==, 0);
    g_assert_cmpuint(frame.n_bytes, ==, plain.n_bytes + distance);
    g_assert_cmpmem(frame.bytes + distance, plain.n_bytes, plain.bytes, plain.n_bytes);
    g_assert_cmpmem(frame.bytes, 8, plain.bytes, 8);
    g_assert_cmphex(frame_word(&frame, SC_IP), ==, 0xabc);
    g_assert_cmpuint(frame_word(&frame, SC_AX), ==, SYS_munmap);
    g_assert_cmphex(frame_word(&frame, SC_DI), ==, 0x123000);
    g_assert_cmpuint(frame_word(&frame, SC_SI), ==, 77);
    g_assert_cmphex(frame_word(&frame, SC_SP), ==, frame.addr);
    g_assert_cmphex(frame_word(&frame, SC_FPSTATE), ==, 0);
}

static void places(void)
{
    g_autoptr(tm_maps) usual = tm_maps_parse("555500000000-555500100000 r-xp 00000000 00:00 0\n"
                                             "7f0000000000-7f0000100000 r-xp 00000000 00:00 0\n"
                                             "ffffffffff600000-ffffffffff601000 --xp 00000000 "
                                             "00:00 0 [vsyscall]\n",
                                             NULL);
    uint64_t first = tm_place_find(usual);
    for (int i = 0; i < 1000; i++) {
        uint64_t addr = tm_place_find(usual);
        g_assert_cmphex(addr % 4096, ==, 0);
        g_assert_cmphex(addr, >, 1ull << 40);
        g_assert_cmphex(addr, <, 0x555500000000 - (1ull << 40));
    }
    g_assert_cmphex(first, !=, tm_place_find(usual));
    g_autoptr(tm_maps) full =
        tm_maps_parse("001000000000-7fff00000000 ---p 00000000 00:00 0\n", NULL);
    g_assert_cmphex(tm_place_find(full), ==, 0);
}

static void stub_fits(void)
{
    uintptr_t start = (uintptr_t)__start_tm_stub, stop = (uintptr_t)__stop_tm_stub;
    uintptr_t borrow = (uintptr_t)tm_stub_borrow_entry, thread = (uintptr_t)tm_stub_thread_entry;
    g_assert_cmpuint(stop - start, <=, TM_STUB_PAGE_BYTES);
    g_assert_true(borrow >= start && borrow < stop && thread >= start && thread < stop);
}

static void refusals(void)
{
    const struct {
        pid_t pid;
        int code;
    } cases[] = {{0x7ffffff0, TM_ATTACH_ERROR_NO_PROCESS},
                 {getpid(), TM_ATTACH_ERROR_SELF},
                 {0, TM_ATTACH_ERROR_NO_PROCESS},
                 {-5, TM_ATTACH_ERROR_NO_PROCESS}};
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        struct tm_inject_request request = {.pid = cases[i].pid};
        struct tm_inject_result result;
        g_assert_false(tm_inject_check(&request, &result, &error));
        g_assert_error(error, TM_ATTACH_ERROR, cases[i].code);
        g_assert_null(strchr(error->message, '\n'));
    }
    g_autoptr(GError) error = NULL;
    g_assert_null(tm_inject_read_payload("/dev/null", &error));
    g_assert_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_PAYLOAD);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/inject/errors/statuses", errors_have_statuses);
    g_test_add_func("/inject/arch/decode-calls", decode_calls);
    g_test_add_func("/inject/safe/names", names);
    g_test_add_func("/inject/landing/names", allocator_names);
    g_test_add_func("/inject/arch/restart-calls", restart_calls);
    g_test_add_func("/inject/arch/frames", frames);
    g_test_add_func("/inject/arch/frame-with-a-call-first", frame_with_a_call_first);
    g_test_add_func("/inject/place/gaps", places);
    g_test_add_func("/inject/stub/fits", stub_fits);
    g_test_add_func("/inject/refusals", refusals);
    return g_test_run();
}
