// SPDX-License-Identifier: MIT
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "format/svb.h"

typedef bool get_fn(struct tm_svb_decoder *d, uint32_t *values, uint32_t n);
static get_fn *const getters[] = {tm_svb_decoder_get, tm_svb_decoder_get_portable};

/* Encodes in pieces of `piece` values into a buffer of exactly the greatest length. */
static uint8_t *encode(const uint32_t *values, uint32_t count, uint32_t piece, size_t *ret_bytes)
{
    struct tm_svb_encoder e;
    uint8_t *out = g_malloc(TM_SVB_BYTES_MAX(count) + 1);
    out[TM_SVB_BYTES_MAX(count)] = 0xa5;
    tm_svb_encoder_init(&e, out, count);
    for (uint32_t i = 0; i < count; i += piece) {
        tm_svb_encoder_put(&e, values + i, MIN(piece, count - i));
    }
    *ret_bytes = (size_t)(e.data - out);
    g_assert_cmpuint(*ret_bytes, <=, TM_SVB_BYTES_MAX(count));
    g_assert_cmphex(out[TM_SVB_BYTES_MAX(count)], ==, 0xa5);
    return out;
}

/* Decodes from a buffer of exactly n_bytes, for the address sanitizer's eyes. */
static bool decode(get_fn *get, const uint8_t *column, size_t n_bytes, uint32_t *values,
                   uint32_t count, uint32_t piece)
{
    struct tm_svb_decoder d;
    uint8_t *copy = malloc(n_bytes > 0 ? n_bytes : 1);
    memcpy(copy, column, n_bytes);
    bool ok = tm_svb_decoder_init(&d, copy, n_bytes, count);
    for (uint32_t i = 0; ok && i < count; i += piece) {
        ok = get(&d, values + i, MIN(piece, count - i));
    }
    ok = ok && d.data == d.end;
    free(copy);
    return ok;
}

static void test_layout(void)
{
    /* The example of docs/FORMAT.md. */
    static const uint32_t values[] = {1, 256, 70000, 4294967295u, 0};
    static const uint8_t expected[] = {0xe4, 0x00, 0x01, 0x00, 0x01, 0x70, 0x11,
                                       0x01, 0xff, 0xff, 0xff, 0xff, 0x00};
    size_t n_bytes;
    uint8_t *column = encode(values, G_N_ELEMENTS(values), 4, &n_bytes);
    g_assert_cmpmem(column, n_bytes, expected, sizeof(expected));
    g_free(column);
}

static void test_round_trip(void)
{
    GRand *rand = g_rand_new_with_seed(2);
    for (uint32_t count = 0; count < 600; count++) {
        uint32_t *values = g_new(uint32_t, count + 1);
        uint32_t *decoded = g_new(uint32_t, count + 1);
        for (uint32_t i = 0; i < count; i++) {
            values[i] = g_rand_int(rand) >> (8 * (g_rand_int(rand) % 4));
        }
        for (uint32_t piece = 4; piece <= 1024; piece *= 4) {
            size_t n_bytes;
            uint8_t *column = encode(values, count, piece, &n_bytes);
            for (size_t k = 0; k < G_N_ELEMENTS(getters); k++) {
                memset(decoded, 0xa5, (count + 1) * sizeof(*decoded));
                g_assert_true(decode(getters[k], column, n_bytes, decoded, count, piece));
                g_assert_cmpmem(values, count * 4, decoded, count * 4);
                g_assert_cmphex(decoded[count], ==, 0xa5a5a5a5);
            }
            g_free(column);
        }
        g_free(values);
        g_free(decoded);
    }
    g_rand_free(rand);
}

/* Every control byte, so that every row of the tables is used. */
static void test_every_control_byte(void)
{
    for (uint32_t control = 0; control < 256; control++) {
        uint32_t values[8], decoded[8];
        size_t n_bytes;
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t code = control >> (2 * (i % 4)) & 3;
            values[i] = 0x9c8b7a69u >> (8 * (3 - code));
            g_assert_cmpuint(tm_svb_value_bytes(values[i]), ==, code + 1);
        }
        uint8_t *column = encode(values, 8, 8, &n_bytes);
        g_assert_cmphex(column[0], ==, control);
        for (size_t k = 0; k < G_N_ELEMENTS(getters); k++) {
            g_assert_true(decode(getters[k], column, n_bytes, decoded, 8, 8));
            g_assert_cmpmem(values, sizeof(values), decoded, sizeof(decoded));
        }
        g_free(column);
    }
}

static void test_wrong_lengths(void)
{
    uint32_t values[50], decoded[50];
    size_t n_bytes;
    for (uint32_t i = 0; i < 50; i++) {
        values[i] = 1u << (i % 32);
    }
    uint8_t *column = encode(values, 50, 4, &n_bytes);
    for (size_t k = 0; k < G_N_ELEMENTS(getters); k++) {
        for (size_t length = 0; length < n_bytes; length++) {
            g_assert_false(decode(getters[k], column, length, decoded, 50, 4));
        }
        g_assert_true(decode(getters[k], column, n_bytes, decoded, 50, 4));
    }
    g_free(column);
}

/* Any bytes are a column, or are not: nothing else may happen. */
static void test_garbage(void)
{
    GRand *rand = g_rand_new_with_seed(3);
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[64];
        uint32_t values[2][64];
        size_t n_bytes = g_rand_int(rand) % sizeof(bytes);
        uint32_t count = g_rand_int(rand) % 64;
        for (size_t i = 0; i < n_bytes; i++) {
            bytes[i] = (uint8_t)g_rand_int(rand);
        }
        bool ok = decode(getters[0], bytes, n_bytes, values[0], count, 16);
        g_assert_true(decode(getters[1], bytes, n_bytes, values[1], count, 16) == ok);
        if (ok) {
            g_assert_cmpmem(values[0], count * 4, values[1], count * 4);
        }
    }
    g_rand_free(rand);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/svb/layout", test_layout);
    g_test_add_func("/svb/round-trip", test_round_trip);
    g_test_add_func("/svb/every-control-byte", test_every_control_byte);
    g_test_add_func("/svb/wrong-lengths", test_wrong_lengths);
    g_test_add_func("/svb/garbage", test_garbage);
    return g_test_run();
}
