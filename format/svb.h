// SPDX-License-Identifier: MIT
/*
 * The StreamVByte layout of .tms columns: (count + 3) / 4 control bytes, two
 * bits a value from the low bits up (0: one byte ... 3: four bytes), then the
 * data bytes, little-endian. Both directions work in pieces, so that neither
 * needs a copy of the whole column. libc only, no allocation; an object is used
 * by one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_SVB_CONTROL_BYTES(count) (((size_t)(count) + 3) / 4)
/* Upper bound of an encoded column. */
#define TM_SVB_BYTES_MAX(count) (TM_SVB_CONTROL_BYTES(count) + 4 * (size_t)(count))

/* Data bytes that the value takes: 1 to 4. */
static inline uint32_t tm_svb_value_bytes(uint32_t value)
{
    return (uint32_t)(1 + (value > 0xff) + (value > 0xffff) + (value > 0xffffff));
}

struct tm_svb_encoder {
    uint8_t *control;
    uint8_t *data; /* behind the last byte written */
};
/* out: TM_SVB_BYTES_MAX(count) bytes, the caller's. */
void tm_svb_encoder_init(struct tm_svb_encoder *e, uint8_t *out, uint32_t count);
/* n: a multiple of four in all calls but the last; the sum of all is `count`. The column then ends
 * at e->data. */
void tm_svb_encoder_put(struct tm_svb_encoder *e, const uint32_t *values, uint32_t n);

struct tm_svb_decoder {
    const uint8_t *control;
    const uint8_t *data; /* next byte */
    const uint8_t *end;  /* of the column; nothing is read from there on */
};
/* Borrows `column`. False where it cannot even hold the control bytes of `count` values. */
bool tm_svb_decoder_init(struct tm_svb_decoder *d, const uint8_t *column, size_t n_bytes,
                         uint32_t count);
/* n as above. False where the column ends too early; `values` is then undefined. After the last
 * value, d->data is d->end in a column whose length is right. */
bool tm_svb_decoder_get(struct tm_svb_decoder *d, uint32_t *values, uint32_t n);
/* The same without vector instructions: other machines, and the tests. */
bool tm_svb_decoder_get_portable(struct tm_svb_decoder *d, uint32_t *values, uint32_t n);
