// SPDX-License-Identifier: MIT
/*
 * Seccomp filters ask nobody: one that ends the process at a system call it does not know would
 * make an attach lethal. So the worker reads the filters of the stopped thread and runs them, as
 * the kernel does, on the calls that are about to be made. Classic BPF as in linux/filter.h and
 * linux/seccomp.h. Runs in the worker only.
 */
#include "injector/inject_seccomp.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif

/* What the borrowed thread, the new thread, dlopen and the payload's start call, in that order.
 * The arguments matter to filters that forbid writable code. */
static const struct {
    long number;
    uint64_t args[6];
} needed[] = {
    {SYS_mmap, {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0}},
    {SYS_mprotect, {0, 4096, PROT_READ | PROT_WRITE}},
    {SYS_rt_sigprocmask, {0}},
    {SYS_clone3, {0}},
    {SYS_rt_sigreturn, {0}},
    {SYS_munmap, {0}},
    {SYS_futex, {0}},
    {SYS_set_robust_list, {0}},
    {SYS_rseq, {0}},
    {SYS_memfd_create, {0}},
    {SYS_openat, {0}},
    {SYS_read, {0}},
    {SYS_newfstatat, {0}},
    {SYS_mmap, {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, 3, 0}},
    {SYS_close, {0}},
    {SYS_madvise, {0}},
    {SYS_exit, {0}},
    {SYS_gettid, {0}},
    {SYS_socketpair, {1}},
    {SYS_eventfd2, {0}},
    {SYS_poll, {0}},
    {SYS_fcntl, {0}},
    {SYS_sendmsg, {0}},
    {SYS_recvmsg, {0}},
};

static uint32_t load(const struct seccomp_data *data, uint32_t offset)
{
    uint32_t word = 0;
    if (offset <= sizeof(*data) - sizeof(word))
        memcpy(&word, (const char *)data + offset, sizeof(word));
    return word;
}

struct machine {
    const struct seccomp_data *data;
    uint32_t a, x, memory[BPF_MEMWORDS];
};

static void calculate(struct machine *m, uint16_t code, uint32_t constant)
{
    uint32_t by = BPF_SRC(code) == BPF_X ? m->x : constant;
    switch (BPF_OP(code)) {
    case BPF_ADD:
        m->a += by;
        break;
    case BPF_SUB:
        m->a -= by;
        break;
    case BPF_MUL:
        m->a *= by;
        break;
    case BPF_DIV:
        m->a = by != 0 ? m->a / by : 0;
        break;
    case BPF_MOD:
        m->a = by != 0 ? m->a % by : 0;
        break;
    case BPF_AND:
        m->a &= by;
        break;
    case BPF_OR:
        m->a |= by;
        break;
    case BPF_XOR:
        m->a ^= by;
        break;
    case BPF_LSH:
        m->a = by < 32 ? m->a << by : 0;
        break;
    case BPF_RSH:
        m->a = by < 32 ? m->a >> by : 0;
        break;
    case BPF_NEG:
        m->a = -m->a;
        break;
    default:
        break;
    }
}

/* How many instructions to skip. */
static uint32_t jump(const struct machine *m, const struct sock_filter *line)
{
    uint32_t with = BPF_SRC(line->code) == BPF_X ? m->x : line->k;
    bool taken;
    switch (BPF_OP(line->code)) {
    case BPF_JA:
        return line->k;
    case BPF_JEQ:
        taken = m->a == with;
        break;
    case BPF_JGT:
        taken = m->a > with;
        break;
    case BPF_JGE:
        taken = m->a >= with;
        break;
    default:
        taken = (m->a & with) != 0;
        break; /* BPF_JSET */
    }
    return taken ? line->jt : line->jf;
}

static void move(struct machine *m, const struct sock_filter *line)
{
    uint32_t value = 0;
    uint16_t class = BPF_CLASS(line->code), mode = BPF_MODE(line->code);
    if (mode == BPF_ABS)
        value = load(m->data, line->k);
    else if (mode == BPF_IMM)
        value = line->k;
    else if (mode == BPF_MEM)
        value = m->memory[line->k % BPF_MEMWORDS];
    else if (mode == BPF_LEN)
        value = sizeof(*m->data);
    if (class == BPF_LD)
        m->a = value;
    else
        m->x = value;
}

uint32_t tm_seccomp_evaluate(const struct sock_filter *program, size_t count, long number,
                             const uint64_t args[6])
{
    struct seccomp_data data = {.nr = (int)number, .arch = AUDIT_ARCH_X86_64};
    for (int i = 0; i < 6; i++)
        data.args[i] = args[i];
    struct machine m = {.data = &data};
    for (size_t pc = 0; pc < count; pc++) {
        const struct sock_filter *line = &program[pc];
        switch (BPF_CLASS(line->code)) {
        case BPF_LD:
        case BPF_LDX:
            move(&m, line);
            break;
        case BPF_ST:
            m.memory[line->k % BPF_MEMWORDS] = m.a;
            break;
        case BPF_STX:
            m.memory[line->k % BPF_MEMWORDS] = m.x;
            break;
        case BPF_ALU:
            calculate(&m, line->code, line->k);
            break;
        case BPF_JMP:
            pc += jump(&m, line);
            break;
        case BPF_RET:
            return BPF_RVAL(line->code) == BPF_A ? m.a : line->k;
        default: /* BPF_MISC */
            if (BPF_MISCOP(line->code) == BPF_TAX)
                m.x = m.a;
            else
                m.a = m.x;
            break;
        }
    }
    return SECCOMP_RET_ALLOW;
}

static bool is_fatal(uint32_t answer)
{
    uint32_t action = answer & SECCOMP_RET_ACTION_FULL;
    return action == SECCOMP_RET_KILL_PROCESS || action == SECCOMP_RET_KILL_THREAD ||
           action == SECCOMP_RET_TRAP;
}

bool tm_seccomp_allows(pid_t tid, long *ret_number)
{
    static struct sock_filter program[BPF_MAXINSNS];
    for (unsigned long i = 0;; i++) {
        long count = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)i, NULL);
        if (count <= 0 || count > BPF_MAXINSNS)
            return true;
        if (ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)i, program) != count)
            return true;
        for (size_t k = 0; k < sizeof(needed) / sizeof(needed[0]); k++) {
            uint32_t answer =
                tm_seccomp_evaluate(program, (size_t)count, needed[k].number, needed[k].args);
            if (!is_fatal(answer))
                continue;
            *ret_number = needed[k].number;
            return false;
        }
    }
}
