// SPDX-License-Identifier: MIT
/* Sizes as text. libc only; any thread. */
#include "analyzer/core/size.h"

#include <inttypes.h>
#include <stdio.h>

const char *tm_size_format(int64_t n_bytes, enum tm_size_style style, char ret[TM_SIZE_TEXT])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    int64_t amount = n_bytes;

    while (unit < 4 && (amount >= 5 * 1024 || amount <= -5 * 1024)) {
        amount /= 1024; /* C truncates toward zero, as the original's format does. */
        unit++;
    }
    snprintf(ret, TM_SIZE_TEXT, style == TM_SIZE_SIGNED ? "%+" PRId64 " %s" : "%" PRId64 " %s",
             amount, units[unit]);
    return ret;
}

uint64_t tm_size_class(uint64_t n_bytes)
{
    if (n_bytes <= 512)
        return (n_bytes + 15) & ~(uint64_t)15;
    if (n_bytes > UINT64_C(1) << 62)
        return UINT64_C(1) << 63;
    return UINT64_C(1) << (64 - __builtin_clzll(n_bytes - 1));
}
