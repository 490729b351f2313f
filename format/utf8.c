// SPDX-License-Identifier: MIT
/* UTF-8. libc only. */
#include "format/utf8.h"

size_t tm_utf8_encode(uint32_t c, char ret[TM_UTF8_MAX])
{
    static const uint8_t leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t length;

    if (c > 0x10ffff)
        c = 0xfffd;
    length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = length; i-- > 1; c >>= 6)
        ret[i] = (char)(0x80 | (c & 0x3f));
    ret[0] = (char)(leads[length] | c);
    return length;
}

size_t tm_utf8_decode(const char *text, size_t n_bytes, uint32_t *ret)
{
    const uint8_t *p = (const uint8_t *)text;
    uint32_t c = p[0];
    size_t length = c < 0x80                ? 1
                    : c >= 0xc2 && c < 0xe0 ? 2
                    : c >= 0xe0 && c < 0xf0 ? 3
                    : c >= 0xf0 && c < 0xf5 ? 4
                                            : 0;

    if (length == 0 || length > n_bytes)
        return 0;
    if (length > 1)
        c &= 0xffu >> (length + 1);
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    /* Longer than it need be, or beyond Unicode. */
    if ((length == 3 && c < 0x800) || (length == 4 && (c < 0x10000 || c > 0x10ffff)))
        return 0;
    *ret = c;
    return length;
}
