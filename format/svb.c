// SPDX-License-Identifier: MIT
/*
 * StreamVByte columns (the layout is Lemire's, Kurz's and Rupp's; the code is
 * our own). Encoding runs in the target as well: no allocation, no lock.
 * Decoding reads bytes that nobody vouches for and never leaves the column.
 */
#include "format/svb.h"

#include <string.h>
#ifdef __x86_64__
#include <tmmintrin.h>
#endif

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "values are stored as they lie in memory");

/* Constant tables by control byte, made by the preprocessor: TABLE(ROW) has 256 rows. */
#define ROWS_4(ROW, c) ROW(c), ROW((c) + 1), ROW((c) + 2), ROW((c) + 3)
#define ROWS_16(ROW, c)                                                                            \
    ROWS_4(ROW, c), ROWS_4(ROW, (c) + 4), ROWS_4(ROW, (c) + 8), ROWS_4(ROW, (c) + 12)
#define ROWS_64(ROW, c)                                                                            \
    ROWS_16(ROW, c), ROWS_16(ROW, (c) + 16), ROWS_16(ROW, (c) + 32), ROWS_16(ROW, (c) + 48)
#define TABLE(ROW) ROWS_64(ROW, 0), ROWS_64(ROW, 64), ROWS_64(ROW, 128), ROWS_64(ROW, 192)

/* Bytes of the value k of four, and where it begins. */
#define BYTES(c, k) (((c) >> (2 * (k)) & 3) + 1)
#define BEGIN_0(c) 0
#define BEGIN_1(c) BYTES(c, 0)
#define BEGIN_2(c) (BEGIN_1(c) + BYTES(c, 1))
#define BEGIN_3(c) (BEGIN_2(c) + BYTES(c, 2))

void tm_svb_encoder_init(struct tm_svb_encoder *e, uint8_t *out, uint32_t count)
{
    e->control = out;
    e->data = out + TM_SVB_CONTROL_BYTES(count);
}

/* Always stores four bytes: what is too much is overwritten by the next value, and lies within the
 * bound of the column behind the last one. */
static inline uint8_t *put_value(uint8_t *data, uint32_t value, uint32_t k, uint32_t *control)
{
    uint32_t n_bytes = tm_svb_value_bytes(value);
    memcpy(data, &value, sizeof(value));
    *control |= (n_bytes - 1) << (2 * k);
    return data + n_bytes;
}

void tm_svb_encoder_put(struct tm_svb_encoder *e, const uint32_t *values, uint32_t n)
{
    /* In locals: a store through a pointer to bytes might change *e, for all the compiler knows. */
    uint8_t *data = e->data;
    uint8_t *control = e->control;
    uint32_t i = 0;
    for (; n - i >= 4; i += 4) {
        uint32_t bits = 0;
        data = put_value(data, values[i], 0, &bits);
        data = put_value(data, values[i + 1], 1, &bits);
        data = put_value(data, values[i + 2], 2, &bits);
        data = put_value(data, values[i + 3], 3, &bits);
        *control++ = (uint8_t)bits;
    }
    if (i < n) {
        uint32_t bits = 0;
        for (uint32_t k = 0; i + k < n; k++) {
            data = put_value(data, values[i + k], k, &bits);
        }
        *control++ = (uint8_t)bits;
    }
    e->data = data;
    e->control = control;
}

bool tm_svb_decoder_init(struct tm_svb_decoder *d, const uint8_t *column, size_t n_bytes,
                         uint32_t count)
{
    if (n_bytes < TM_SVB_CONTROL_BYTES(count)) {
        return false;
    }
    d->control = column;
    d->data = column + TM_SVB_CONTROL_BYTES(count);
    d->end = column + n_bytes;
    return true;
}

/* Up to four values, byte by byte: the ends of columns. */
static bool get_carefully(struct tm_svb_decoder *d, uint32_t *values, uint32_t n)
{
    uint32_t control = *d->control++;
    for (uint32_t k = 0; k < n; k++) {
        size_t n_bytes = BYTES(control, k);
        if ((size_t)(d->end - d->data) < n_bytes) {
            return false;
        }
        values[k] = 0;
        memcpy(&values[k], d->data, n_bytes);
        d->data += n_bytes;
    }
    return true;
}

static bool get_rest(struct tm_svb_decoder *d, uint32_t *values, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 4) {
        if (!get_carefully(d, values + i, n - i < 4 ? n - i : 4)) {
            return false;
        }
    }
    return true;
}

bool tm_svb_decoder_get_portable(struct tm_svb_decoder *d, uint32_t *values, uint32_t n)
{
    static const uint32_t masks[4] = {0xff, 0xffff, 0xffffff, 0xffffffff};
    uint32_t i = 0;
    for (; n - i >= 4 && d->end - d->data >= 16; i += 4) {
        uint32_t control = *d->control++;
        const uint8_t *at = d->data;
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t code = control >> (2 * k) & 3;
            uint32_t word;
            memcpy(&word, at, 4);
            values[i + k] = word & masks[code];
            at += code + 1;
        }
        d->data = at;
    }
    return get_rest(d, values + i, n - i);
}

#ifdef __x86_64__
/* Data bytes of four values. */
#define QUAD_BYTES(c) (BEGIN_3(c) + BYTES(c, 3))
static const uint8_t quad_bytes[256] = {TABLE(QUAD_BYTES)};

/* Where each of the 16 bytes of four values comes from; 0x80 gives a zero. */
#define LANE(c, k, j) ((j) < BYTES(c, k) ? BEGIN_##k(c) + (j) : 0x80)
#define LANES(c, k) LANE(c, k, 0), LANE(c, k, 1), LANE(c, k, 2), LANE(c, k, 3)
#define SHUFFLE(c)                                                                                 \
    {                                                                                              \
        LANES(c, 0), LANES(c, 1), LANES(c, 2), LANES(c, 3)                                         \
    }
static const _Alignas(64) uint8_t shuffles[256][16] = {TABLE(SHUFFLE)};

__attribute__((target("ssse3"))) static bool get_ssse3(struct tm_svb_decoder *d, uint32_t *values,
                                                       uint32_t n)
{
    const uint8_t *control = d->control;
    const uint8_t *data = d->data;
    const uint8_t *end = d->end;
    uint32_t i = 0;
    for (; n - i >= 4 && end - data >= 16; i += 4) {
        uint32_t c = *control++;
        __m128i bytes = _mm_loadu_si128((const __m128i *)data);
        __m128i shuffle = _mm_load_si128((const __m128i *)shuffles[c]);
        _mm_storeu_si128((__m128i *)(values + i), _mm_shuffle_epi8(bytes, shuffle));
        data += quad_bytes[c];
    }
    d->control = control;
    d->data = data;
    return get_rest(d, values + i, n - i);
}
#endif

bool tm_svb_decoder_get(struct tm_svb_decoder *d, uint32_t *values, uint32_t n)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("ssse3")) {
        return get_ssse3(d, values, n);
    }
#endif
    return tm_svb_decoder_get_portable(d, values, n);
}
