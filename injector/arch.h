// SPDX-License-Identifier: MIT
/*
 * What the injector must know of the processor: registers, the frame of rt_sigreturn, and how a
 * call is made. One implementation per machine, arch_<machine>.c.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#define TM_ARCH_MACHINE EM_X86_64
#define TM_ARCH_RED_ZONE_BYTES 128u
#define TM_ARCH_XSTATE_MAX_BYTES 16384u
#define TM_ARCH_DWARF_REGS 17 /* as .eh_frame numbers them; the last is the return address */
#define TM_ARCH_DWARF_SP 7
#define TM_ARCH_DWARF_PC 16

/* Byte patterns to be found in libc's code. */
extern const uint8_t tm_arch_restorer_code[9]; /* mov $__NR_rt_sigreturn, %rax; syscall */
extern const uint8_t tm_arch_syscall_code[3];  /* syscall; ret */

/* Everything of a stopped thread that a call changes. */
struct tm_arch_state {
    struct user_regs_struct regs;
    uint64_t signal_mask;
    size_t xstate_bytes;
    uint8_t xstate[TM_ARCH_XSTATE_MAX_BYTES] __attribute__((aligned(64)));
};

/* All return 0 or -errno of ptrace. */
int tm_arch_save(pid_t tid, struct tm_arch_state *ret);
/* Mask, extended state, registers, in this order. */
int tm_arch_restore(pid_t tid, const struct tm_arch_state *state);
int tm_arch_set_signal_mask(pid_t tid, uint64_t mask);
int tm_arch_set_regs(pid_t tid, const struct user_regs_struct *regs);
int tm_arch_get_regs(pid_t tid, struct user_regs_struct *ret);

/* A frame for rt_sigreturn, below the red zone of the saved stack pointer; in front of it perhaps
 * one that makes a system call first. */
struct tm_arch_frame {
    uint64_t addr;       /* where it is in the target; its first word is the restorer's address */
    uint64_t first_addr; /* the same of the one in front, or addr */
    size_t n_bytes;      /* of all, from first_addr */
    uint8_t bytes[TM_ARCH_XSTATE_MAX_BYTES + 1024];
};

/*
 * Builds the frame that puts the thread back to the saved state without any help. A system call
 * that was interrupted is made anew by it, or returns EINTR where only the kernel could have
 * restarted it. The alternate signal stack is left alone.
 */
void tm_arch_build_frame(const struct tm_arch_state *state, uint64_t restorer_addr,
                         struct tm_arch_frame *ret);
/* Puts a frame in front that makes a system call through the gadget (syscall; ret) with all signals
 * blocked, and returns into the other. Whoever returns to first_addr makes the call on the way. */
void tm_arch_frame_call_first(const struct tm_arch_state *state, uint64_t gadget_addr, long number,
                              const uint64_t args[6], struct tm_arch_frame *frame);
/* What the stack pointer is when the restorer runs. */
uint64_t tm_arch_frame_sp(const struct tm_arch_frame *frame);

/* Registers for the system call that the gadget makes, returning through the word at stack_addr: a
 * frame's first. */
void tm_arch_regs_for_syscall(const struct tm_arch_state *state, uint64_t stack_addr,
                              uint64_t gadget_addr, long number, const uint64_t args[6],
                              struct user_regs_struct *ret);
/* Registers for a jump to entry with one argument on the stack stack_addr (multiple of 16). */
void tm_arch_regs_for_entry(const struct tm_arch_state *state, uint64_t entry_addr,
                            uint64_t stack_addr, uint64_t arg, struct user_regs_struct *ret);
/* Registers for going home by the frame: the restorer is about to run. No system call pending. */
void tm_arch_regs_for_restorer(const struct tm_arch_state *state, const struct tm_arch_frame *frame,
                               uint64_t restorer_addr, struct user_regs_struct *ret);
uint64_t tm_arch_result(const struct user_regs_struct *regs);
/* The number of the system call that the thread is in, or -1. */
long tm_arch_syscall_number(const struct user_regs_struct *regs);
/* True where the system call returns EINTR after any stop instead of being restarted. */
bool tm_arch_syscall_is_fragile(long number);

enum tm_arch_restart {
    TM_ARCH_RESTART_ENDLESS, /* calls without a time-out, which go on as if nothing had been */
    TM_ARCH_RESTART_ALL,     /* also those whose time-out then begins anew */
};

/* Makes of the EINTR that the stop has brought about in such a call what the kernel leaves behind
 * in others: made anew, unless a signal is handled first. True where regs have changed. */
bool tm_arch_restart_fragile(struct user_regs_struct *regs, enum tm_arch_restart which);

void tm_arch_dwarf_regs(const struct user_regs_struct *regs, uint64_t ret[TM_ARCH_DWARF_REGS]);

/* Which address a call before the return address went to. */
enum tm_arch_call_kind {
    TM_ARCH_CALL_UNKNOWN,
    TM_ARCH_CALL_DIRECT, /* the address of the callee, perhaps a PLT entry */
    TM_ARCH_CALL_SLOT,   /* the address of a pointer to the callee */
};
/* code: the n_bytes bytes that end at return_addr. */
enum tm_arch_call_kind tm_arch_decode_call(const uint8_t *code, size_t n_bytes,
                                           uint64_t return_addr, uint64_t *ret_addr);
/* The slot that a PLT entry at addr jumps through; false where it is not one. */
bool tm_arch_decode_plt(const uint8_t *code, size_t n_bytes, uint64_t addr, uint64_t *ret_slot);
