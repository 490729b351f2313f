// SPDX-License-Identifier: MIT
/*
 * x86-64. Layouts are the kernel's ABI: struct sigcontext and ucontext (asm/sigcontext.h,
 * asm/ucontext.h), the XSAVE area (Intel SDM 1, chapter 13), error codes of restartable system
 * calls (linux/errno.h). Talks to ptrace; otherwise pure.
 */
#include "injector/arch.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <linux/futex.h>

const uint8_t tm_arch_restorer_code[9] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
const uint8_t tm_arch_syscall_code[3] = {0x0f, 0x05, 0xc3};

/* What the kernel leaves in rax of an interrupted call that is to be restarted. */
#define KERNEL_ERESTARTSYS 512
#define KERNEL_ERESTARTNOINTR 513
#define KERNEL_ERESTARTNOHAND 514
#define KERNEL_ERESTART_RESTARTBLOCK 516

#define XSTATE_MAGIC1 0x46505853u
#define XSTATE_MAGIC2 0x46505845u
#define XSTATE_LEGACY_BYTES 512u
#define XSTATE_HEADER_BYTES 64u
#define XSTATE_SW_OFFSET 464u /* the part of the legacy area that is the kernel's */
#define UC_FP_XSTATE 1u
#define UC_SIGCONTEXT_SS 2u
#define UC_STRICT_RESTORE_SS 4u
#define EFLAGS_DF 0x400ull
#define EFLAGS_TF 0x100ull

struct kernel_sigcontext {
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, flags;
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2;
    uint64_t fpstate_addr;
    uint64_t reserved[8];
};

struct kernel_ucontext {
    uint64_t flags;
    uint64_t link;
    uint64_t stack_addr;
    int32_t stack_flags;
    int32_t pad;
    uint64_t stack_bytes;
    struct kernel_sigcontext mcontext;
    uint64_t signal_mask;
};

_Static_assert(sizeof(struct kernel_sigcontext) == 256, "asm/sigcontext.h");
_Static_assert(sizeof(struct kernel_ucontext) == 304, "asm/ucontext.h");

struct fx_sw_bytes {
    uint32_t magic1;
    uint32_t extended_size;
    uint64_t xfeatures;
    uint32_t xstate_size;
    uint32_t padding[7];
};
_Static_assert(sizeof(struct fx_sw_bytes) == 48, "asm/sigcontext.h");

static int ptrace_result(long result)
{
    return result < 0 ? -errno : 0;
}

int tm_arch_get_regs(pid_t tid, struct user_regs_struct *ret)
{
    struct iovec io = {ret, sizeof(*ret)};
    return ptrace_result(ptrace(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &io));
}

int tm_arch_set_regs(pid_t tid, const struct user_regs_struct *regs)
{
    struct iovec io = {(void *)(uintptr_t)regs, sizeof(*regs)};
    return ptrace_result(ptrace(PTRACE_SETREGSET, tid, (void *)NT_PRSTATUS, &io));
}

int tm_arch_set_signal_mask(pid_t tid, uint64_t mask)
{
    return ptrace_result(ptrace(PTRACE_SETSIGMASK, tid, (void *)sizeof(mask), &mask));
}

int tm_arch_save(pid_t tid, struct tm_arch_state *ret)
{
    int rc = tm_arch_get_regs(tid, &ret->regs);
    if (rc == 0)
        rc = ptrace_result(
            ptrace(PTRACE_GETSIGMASK, tid, (void *)sizeof(ret->signal_mask), &ret->signal_mask));
    if (rc != 0)
        return rc;
    struct iovec io = {ret->xstate, sizeof(ret->xstate)};
    rc = ptrace_result(ptrace(PTRACE_GETREGSET, tid, (void *)NT_X86_XSTATE, &io));
    ret->xstate_bytes = io.iov_len;
    return rc;
}

int tm_arch_restore(pid_t tid, const struct tm_arch_state *state)
{
    int rc = tm_arch_set_signal_mask(tid, state->signal_mask);
    struct iovec io = {(void *)(uintptr_t)state->xstate, state->xstate_bytes};
    int xstate_rc = ptrace_result(ptrace(PTRACE_SETREGSET, tid, (void *)NT_X86_XSTATE, &io));
    int regs_rc = tm_arch_set_regs(tid, &state->regs);
    return rc != 0 ? rc : xstate_rc != 0 ? xstate_rc : regs_rc;
}

/* How many bytes of the area the components in use take: rt_sigreturn refuses an area that is
 * larger than what the thread may use, and the area that ptrace gives may be. */
static size_t xstate_used_bytes(const struct tm_arch_state *state, uint64_t *ret_features)
{
    if (state->xstate_bytes < XSTATE_LEGACY_BYTES + XSTATE_HEADER_BYTES)
        return 0;
    memcpy(ret_features, state->xstate + XSTATE_LEGACY_BYTES, sizeof(*ret_features));
    size_t used = XSTATE_LEGACY_BYTES + XSTATE_HEADER_BYTES;
    for (unsigned i = 2; i < 63; i++) {
        unsigned size = 0, offset = 0, c = 0, d = 0;
        if ((*ret_features >> i & 1) == 0)
            continue;
        __cpuid_count(0xd, i, size, offset, c, d);
        if ((size_t)offset + size > used)
            used = (size_t)offset + size;
    }
    return used <= state->xstate_bytes ? used : 0;
}

/*
 * What the registers must be where rt_sigreturn, and not the kernel's own restart, sends the
 * thread back: the same system call again with the same arguments. That is wrong where a relative
 * timeout has run on meanwhile; such a call returns EINTR, as after any signal.
 */
static void settle_syscall(const struct user_regs_struct *regs, uint64_t *ip, uint64_t *ax)
{
    long number = (long)regs->orig_rax;
    if (number < 0)
        return;
    bool absolute_futex =
        number == SYS_futex && ((int)regs->rsi & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
    switch (-(long)regs->rax) {
    case KERNEL_ERESTART_RESTARTBLOCK:
        if (!absolute_futex) {
            *ax = (uint64_t)-EINTR;
            return;
        }
        break;
    case KERNEL_ERESTARTSYS:
    case KERNEL_ERESTARTNOINTR:
    case KERNEL_ERESTARTNOHAND:
        break;
    default:
        return;
    }
    *ax = (uint64_t)number;
    *ip = regs->rip - 2; /* the length of the syscall instruction */
}

static void fill_sigcontext(const struct user_regs_struct *regs, struct kernel_sigcontext *ret)
{
    *ret = (struct kernel_sigcontext){
        .r8 = regs->r8,
        .r9 = regs->r9,
        .r10 = regs->r10,
        .r11 = regs->r11,
        .r12 = regs->r12,
        .r13 = regs->r13,
        .r14 = regs->r14,
        .r15 = regs->r15,
        .di = regs->rdi,
        .si = regs->rsi,
        .bp = regs->rbp,
        .bx = regs->rbx,
        .dx = regs->rdx,
        .ax = regs->rax,
        .cx = regs->rcx,
        .sp = regs->rsp,
        .ip = regs->rip,
        .flags = regs->eflags,
        .cs = (uint16_t)regs->cs,
        .ss = (uint16_t)regs->ss,
    };
    settle_syscall(regs, &ret->ip, &ret->ax);
}

static void fill_xstate(const struct tm_arch_state *state, size_t used_bytes, uint64_t features,
                        uint8_t *to)
{
    memcpy(to, state->xstate, used_bytes);
    memset(to + XSTATE_SW_OFFSET, 0, sizeof(struct fx_sw_bytes));
    struct fx_sw_bytes sw = {.magic1 = XSTATE_MAGIC1,
                             .extended_size = (uint32_t)used_bytes + 4,
                             .xfeatures = features,
                             .xstate_size = (uint32_t)used_bytes};
    memcpy(to + XSTATE_SW_OFFSET, &sw, sizeof(sw));
    uint32_t magic2 = XSTATE_MAGIC2;
    memcpy(to + used_bytes, &magic2, sizeof(magic2));
}

void tm_arch_build_frame(const struct tm_arch_state *state, uint64_t restorer_addr,
                         struct tm_arch_frame *ret)
{
    uint64_t features = 0;
    size_t xstate_bytes = xstate_used_bytes(state, &features);
    uint64_t top = state->regs.rsp - TM_ARCH_RED_ZONE_BYTES;
    uint64_t xstate_addr = (top - xstate_bytes - 4) & ~63ull;
    ret->addr = ((xstate_addr - sizeof(struct kernel_ucontext)) & ~15ull) - 8;
    ret->first_addr = ret->addr;
    ret->n_bytes = (size_t)(xstate_addr + xstate_bytes + 4 - ret->addr);
    memset(ret->bytes, 0, ret->n_bytes);
    memcpy(ret->bytes, &restorer_addr, sizeof(restorer_addr));

    /* Flags that sigaltstack refuses: rt_sigreturn ignores the refusal, so that the alternate
     * stack, which no tracer can read, stays what it is. */
    struct kernel_ucontext context = {.flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
                                      .stack_flags = 0x7,
                                      .signal_mask = state->signal_mask};
    fill_sigcontext(&state->regs, &context.mcontext);
    if (xstate_bytes > 0) {
        context.flags |= UC_FP_XSTATE;
        context.mcontext.fpstate_addr = xstate_addr;
        fill_xstate(state, xstate_bytes, features, ret->bytes + (xstate_addr - ret->addr));
    }
    memcpy(ret->bytes + 8, &context, sizeof(context));
}

/* No extended state is given: the kernel clears it, and the frame behind brings it back. */
void tm_arch_frame_call_first(const struct tm_arch_state *state, uint64_t gadget_addr, long number,
                              const uint64_t args[6], struct tm_arch_frame *frame)
{
    struct {
        uint64_t restorer_addr;
        struct kernel_ucontext context;
        uint64_t padding; /* the distance between the frames is a multiple of 16 */
    } front = {.context = {.flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
                           .stack_flags = 0x7,
                           .signal_mask = ~0ull}};
    struct user_regs_struct regs;
    _Static_assert(sizeof(front) % 16 == 0, "the stack pointer of rt_sigreturn");
    tm_arch_regs_for_syscall(state, frame->addr, gadget_addr, number, args, &regs);
    fill_sigcontext(&regs, &front.context.mcontext);
    memcpy(&front.restorer_addr, frame->bytes, sizeof(front.restorer_addr));
    memmove(frame->bytes + sizeof(front), frame->bytes, frame->n_bytes);
    memcpy(frame->bytes, &front, sizeof(front));
    frame->first_addr = frame->addr - sizeof(front);
    frame->n_bytes += sizeof(front);
}

uint64_t tm_arch_frame_sp(const struct tm_arch_frame *frame)
{
    return frame->addr + 8;
}

/* orig_rax = -1: the kernel must not take the new state for an interrupted system call. */
static void start_regs(const struct tm_arch_state *state, struct user_regs_struct *ret)
{
    *ret = state->regs;
    ret->orig_rax = (unsigned long long)-1;
    ret->eflags &= ~(EFLAGS_DF | EFLAGS_TF);
}

void tm_arch_regs_for_syscall(const struct tm_arch_state *state, uint64_t stack_addr,
                              uint64_t gadget_addr, long number, const uint64_t args[6],
                              struct user_regs_struct *ret)
{
    start_regs(state, ret);
    ret->rip = gadget_addr;
    ret->rsp = stack_addr;
    ret->rax = (unsigned long long)number;
    ret->rdi = args[0];
    ret->rsi = args[1];
    ret->rdx = args[2];
    ret->r10 = args[3];
    ret->r8 = args[4];
    ret->r9 = args[5];
}

void tm_arch_regs_for_entry(const struct tm_arch_state *state, uint64_t entry_addr,
                            uint64_t stack_addr, uint64_t arg, struct user_regs_struct *ret)
{
    start_regs(state, ret);
    ret->rip = entry_addr;
    ret->rsp = stack_addr;
    ret->rbp = 0;
    ret->rdi = arg;
    ret->rax = 0;
}

void tm_arch_regs_for_restorer(const struct tm_arch_state *state, const struct tm_arch_frame *frame,
                               uint64_t restorer_addr, struct user_regs_struct *ret)
{
    start_regs(state, ret);
    ret->rip = restorer_addr;
    ret->rsp = tm_arch_frame_sp(frame);
}

uint64_t tm_arch_result(const struct user_regs_struct *regs)
{
    return regs->rax;
}

long tm_arch_syscall_number(const struct user_regs_struct *regs)
{
    return (long)regs->orig_rax;
}

/* signal(7), "Interruption of system calls and library functions by stop signals". */
bool tm_arch_syscall_is_fragile(long number)
{
    static const short fragile[] = {
        SYS_epoll_wait, SYS_epoll_pwait,  SYS_epoll_pwait2, SYS_rt_sigtimedwait, SYS_semop,
        SYS_semtimedop, SYS_io_getevents, SYS_recvfrom,     SYS_recvmsg,         SYS_recvmmsg,
        SYS_accept,     SYS_accept4,      SYS_connect,      SYS_sendto,          SYS_sendmsg,
        SYS_sendmmsg,   SYS_msgrcv,       SYS_msgsnd,       SYS_io_uring_enter,
    };
    for (size_t i = 0; i < sizeof(fragile) / sizeof(fragile[0]); i++) {
        if (fragile[i] == number)
            return true;
    }
    return false;
}

static bool has_no_timeout(const struct user_regs_struct *regs)
{
    switch (regs->orig_rax) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
        return (int32_t)regs->r10 < 0;
    case SYS_epoll_pwait2:
    case SYS_semtimedop:
        return regs->r10 == 0;
    case SYS_rt_sigtimedwait:
        return regs->rdx == 0;
    case SYS_io_getevents:
        return regs->r8 == 0;
    case SYS_semop:
        return true;
    default: /* sockets: with no time-out set they are restarted by the kernel */
        return false;
    }
}

bool tm_arch_restart_fragile(struct user_regs_struct *regs, enum tm_arch_restart which)
{
    if (!tm_arch_syscall_is_fragile((long)regs->orig_rax) || (long)regs->rax != -EINTR ||
        (which == TM_ARCH_RESTART_ENDLESS && !has_no_timeout(regs)))
        return false;
    regs->rax = (unsigned long long)-KERNEL_ERESTARTNOHAND;
    return true;
}

void tm_arch_dwarf_regs(const struct user_regs_struct *regs, uint64_t ret[TM_ARCH_DWARF_REGS])
{
    const uint64_t values[TM_ARCH_DWARF_REGS] = {
        regs->rax, regs->rdx, regs->rcx, regs->rbx, regs->rsi, regs->rdi,
        regs->rbp, regs->rsp, regs->r8,  regs->r9,  regs->r10, regs->r11,
        regs->r12, regs->r13, regs->r14, regs->r15, regs->rip,
    };
    memcpy(ret, values, sizeof(values));
}

static uint64_t relative32(const uint8_t *code, uint64_t next_addr)
{
    int32_t distance;
    memcpy(&distance, code, sizeof(distance));
    return next_addr + (uint64_t)(int64_t)distance;
}

enum tm_arch_call_kind tm_arch_decode_call(const uint8_t *code, size_t n_bytes,
                                           uint64_t return_addr, uint64_t *ret_addr)
{
    /* call *slot(%rip): ff 15 disp32. Looked for first: its displacement may hold an e8. */
    if (n_bytes >= 6 && code[n_bytes - 6] == 0xff && code[n_bytes - 5] == 0x15) {
        *ret_addr = relative32(code + n_bytes - 4, return_addr);
        return TM_ARCH_CALL_SLOT;
    }
    if (n_bytes >= 5 && code[n_bytes - 5] == 0xe8) {
        *ret_addr = relative32(code + n_bytes - 4, return_addr);
        return TM_ARCH_CALL_DIRECT;
    }
    return TM_ARCH_CALL_UNKNOWN;
}

bool tm_arch_decode_plt(const uint8_t *code, size_t n_bytes, uint64_t addr, uint64_t *ret_slot)
{
    static const uint8_t endbr64[4] = {0xf3, 0x0f, 0x1e, 0xfa};
    size_t at = 0;
    if (n_bytes >= 4 && memcmp(code, endbr64, 4) == 0)
        at = 4;
    if (at < n_bytes && code[at] == 0xf2) /* bnd */
        at++;
    if (at + 6 > n_bytes || code[at] != 0xff || code[at + 1] != 0x25)
        return false;
    *ret_slot = relative32(code + at + 2, addr + at + 6);
    return true;
}
