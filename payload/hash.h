// SPDX-License-Identifier: MIT
/* Small hash functions of the payload. None is meant to withstand an adversary's keys. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TM_HASH_K1 0x9e3779b97f4a7c15ull
#define TM_HASH_K2 0xd6e8feb86659fd93ull

static inline uint64_t tm_hash_rotl(uint64_t value, int bits)
{
    return (value << bits) | (value >> (64 - bits));
}

static inline uint64_t tm_hash_mix(uint64_t hash, uint64_t word)
{
    return tm_hash_rotl((hash ^ word) * TM_HASH_K1, 29);
}

static inline uint32_t tm_hash_fold(uint64_t hash)
{
    hash ^= hash >> 32;
    hash *= TM_HASH_K2;
    return (uint32_t)(hash >> 32);
}

static inline uint32_t tm_hash_bytes(const void *data, size_t n_bytes)
{
    const unsigned char *bytes = data;
    uint64_t hash = n_bytes * TM_HASH_K2, word;
    for (; n_bytes >= 8; bytes += 8, n_bytes -= 8) {
        memcpy(&word, bytes, 8);
        hash = tm_hash_mix(hash, word);
    }
    for (word = 0; n_bytes > 0; n_bytes--)
        word = word << 8 | *bytes++;
    return tm_hash_fold(tm_hash_mix(hash, word));
}
