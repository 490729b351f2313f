// SPDX-License-Identifier: MIT
/* Keeps known values in vector registers, in the callee-saved ones and below the stack pointer,
 * and looks all the time whether they are still there. Ends with 1 where they are not. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* One round: fills xmm0-15 and 128 bytes of red zone, spins, compares. 0 where all is as it was.
 * No call is made between: it is a leaf whose red zone is its own. */
__attribute__((noinline)) static uint64_t check_round(uint64_t pattern)
{
    uint64_t bad;
    __asm__ volatile("movq %1, %%xmm0\n\t"
                     "punpcklqdq %%xmm0, %%xmm0\n\t"
                     "movdqa %%xmm0, %%xmm7\n\t"
                     "movdqa %%xmm0, %%xmm15\n\t"
                     "movq %1, -8(%%rsp)\n\t"
                     "movq %1, -64(%%rsp)\n\t"
                     "movq %1, -128(%%rsp)\n\t"
                     "mov $20000, %%ecx\n\t"
                     "1: dec %%ecx\n\t"
                     "jnz 1b\n\t"
                     "xor %0, %0\n\t"
                     "movq -8(%%rsp), %%rdx\n\txor %1, %%rdx\n\tor %%rdx, %0\n\t"
                     "movq -64(%%rsp), %%rdx\n\txor %1, %%rdx\n\tor %%rdx, %0\n\t"
                     "movq -128(%%rsp), %%rdx\n\txor %1, %%rdx\n\tor %%rdx, %0\n\t"
                     "movq %%xmm7, %%rdx\n\txor %1, %%rdx\n\tor %%rdx, %0\n\t"
                     "movhlps %%xmm15, %%xmm15\n\t"
                     "movq %%xmm15, %%rdx\n\txor %1, %%rdx\n\tor %%rdx, %0\n\t"
                     : "=&r"(bad)
                     : "r"(pattern)
                     : "rcx", "rdx", "xmm0", "xmm7", "xmm15", "memory", "cc");
    return bad;
}

/* The upper halves of the AVX registers, where there are any. */
__attribute__((noinline, target("avx"))) static uint64_t check_avx(uint64_t pattern)
{
    uint64_t bad, out[4];
    __asm__ volatile("vmovq %1, %%xmm3\n\t"
                     "vpunpcklqdq %%xmm3, %%xmm3, %%xmm3\n\t"
                     "vinsertf128 $1, %%xmm3, %%ymm3, %%ymm3\n\t"
                     "mov $20000, %%ecx\n\t"
                     "1: dec %%ecx\n\t"
                     "jnz 1b\n\t"
                     "vmovups %%ymm3, (%2)\n\t"
                     "vzeroupper\n\t"
                     "xor %0, %0\n\t"
                     : "=&r"(bad)
                     : "r"(pattern), "r"(out)
                     : "rcx", "xmm3", "memory", "cc");
    for (int i = 0; i < 4; i++)
        bad |= out[i] ^ pattern;
    return bad;
}

int main(void)
{
    int has_avx = __builtin_cpu_supports("avx");
    printf("ready\n");
    fflush(stdout);
    for (uint64_t pattern = 0x0123456789abcdefull;; pattern = pattern * 3 + 1) {
        if (check_round(pattern) != 0 || (has_avx && check_avx(pattern) != 0))
            return 1;
    }
}
