// SPDX-License-Identifier: MIT
/*
 * CRC-32C. Runs in any thread of any of the programs, the target included:
 * no allocation, no state, no lock. The instruction is chosen at run time so
 * that one build runs on every x86-64.
 */
#include "format/crc32c.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "slicing reads little-endian words");

/*
 * The table of a CRC is linear: entry n is the exclusive or of the entries of
 * its bits. Eight constants a table are therefore all that the source holds,
 * and the compiler makes a constant table of them. slice k is the CRC of a
 * byte that k zero bytes follow.
 */
#define ENTRY(n, a, b, c, d, e, f, g, h)                                                           \
    (((n)&1 ? a : 0u) ^ ((n)&2 ? b : 0u) ^ ((n)&4 ? c : 0u) ^ ((n)&8 ? d : 0u) ^                   \
     ((n)&16 ? e : 0u) ^ ((n)&32 ? f : 0u) ^ ((n)&64 ? g : 0u) ^ ((n)&128 ? h : 0u))
#define ENTRIES_4(n, ...)                                                                          \
    ENTRY((n), __VA_ARGS__), ENTRY((n) + 1, __VA_ARGS__), ENTRY((n) + 2, __VA_ARGS__),             \
        ENTRY((n) + 3, __VA_ARGS__)
#define ENTRIES_16(n, ...)                                                                         \
    ENTRIES_4((n), __VA_ARGS__), ENTRIES_4((n) + 4, __VA_ARGS__), ENTRIES_4((n) + 8, __VA_ARGS__), \
        ENTRIES_4((n) + 12, __VA_ARGS__)
#define ENTRIES_64(n, ...)                                                                         \
    ENTRIES_16((n), __VA_ARGS__), ENTRIES_16((n) + 16, __VA_ARGS__),                               \
        ENTRIES_16((n) + 32, __VA_ARGS__), ENTRIES_16((n) + 48, __VA_ARGS__)
#define SLICE(...)                                                                                 \
    {                                                                                              \
        ENTRIES_64(0, __VA_ARGS__), ENTRIES_64(64, __VA_ARGS__), ENTRIES_64(128, __VA_ARGS__),     \
            ENTRIES_64(192, __VA_ARGS__)                                                           \
    }

static const uint32_t slices[8][256] = {
    SLICE(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede, 0x417b1dbc,
          0x82f63b78),
    SLICE(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302, 0xff17c604,
          0xfbc3faf9),
    SLICE(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14, 0xc76580d9,
          0x8b277743),
    SLICE(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b, 0xaba65fe7,
          0x52a0c93f),
    SLICE(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557, 0x37516aae,
          0x6ea2d55c),
    SLICE(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d, 0x0e045beb,
          0x1c08b7d6),
    SLICE(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a,
          0xf56e0ef4),
    SLICE(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599, 0x1a00cb32,
          0x34019664),
};

uint32_t tm_crc32c_portable(uint32_t crc, const void *data, size_t n_bytes)
{
    const uint8_t *at = data;
    crc = ~crc;
    for (; n_bytes >= 8; n_bytes -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof(word));
        word ^= crc;
        crc = slices[7][word & 0xff] ^ slices[6][word >> 8 & 0xff] ^ slices[5][word >> 16 & 0xff] ^
              slices[4][word >> 24 & 0xff] ^ slices[3][word >> 32 & 0xff] ^
              slices[2][word >> 40 & 0xff] ^ slices[1][word >> 48 & 0xff] ^ slices[0][word >> 56];
    }
    for (; n_bytes > 0; n_bytes--, at++) {
        crc = crc >> 8 ^ slices[0][(crc ^ *at) & 0xff];
    }
    return ~crc;
}

#ifdef __x86_64__
/* One stream: a dependent crc32q takes three cycles, 8 bytes at a time is several GB/s, which is
 * more than the rest of reading a file does. */
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data,
                                                               size_t n_bytes)
{
    const uint8_t *at = data;
    uint64_t wide = ~crc;
    for (; n_bytes >= 8; n_bytes -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof(word));
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; n_bytes > 0; n_bytes--, at++) {
        crc = __builtin_ia32_crc32qi(crc, *at);
    }
    return ~crc;
}
#endif

uint32_t tm_crc32c(uint32_t crc, const void *data, size_t n_bytes)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2")) {
        return crc32c_sse42(crc, data, n_bytes);
    }
#endif
    return tm_crc32c_portable(crc, data, n_bytes);
}
