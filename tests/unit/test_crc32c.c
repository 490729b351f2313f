// SPDX-License-Identifier: MIT
#include <glib.h>
#include <string.h>

#include "format/crc32c.h"

/* The definition, bit by bit. */
static uint32_t by_bits(const uint8_t *data, size_t n_bytes)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n_bytes; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
        }
    }
    return ~crc;
}

/* RFC 3720, appendix B.4, and the check value of the catalogues. */
static void test_known(void)
{
    uint8_t data[32];
    g_assert_cmphex(tm_crc32c(0, "123456789", 9), ==, 0xe3069283);
    memset(data, 0, sizeof(data));
    g_assert_cmphex(tm_crc32c(0, data, sizeof(data)), ==, 0x8a9136aa);
    memset(data, 0xff, sizeof(data));
    g_assert_cmphex(tm_crc32c(0, data, sizeof(data)), ==, 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++) {
        data[i] = i;
    }
    g_assert_cmphex(tm_crc32c(0, data, sizeof(data)), ==, 0x46dd794e);
    g_assert_cmphex(tm_crc32c(0, NULL, 0), ==, 0);
}

static void test_same_as_definition(void)
{
    GRand *rand = g_rand_new_with_seed(1);
    for (size_t n = 0; n < 300; n++) {
        uint8_t *data = g_malloc(n + 1);
        for (size_t i = 0; i < n + 1; i++) {
            data[i] = (uint8_t)g_rand_int(rand);
        }
        for (size_t skip = 0; skip <= 1; skip++) { /* not aligned as well */
            uint32_t expected = by_bits(data + skip, n);
            g_assert_cmphex(tm_crc32c(0, data + skip, n), ==, expected);
            g_assert_cmphex(tm_crc32c_portable(0, data + skip, n), ==, expected);
        }
        g_free(data);
    }
    g_rand_free(rand);
}

static void test_pieces(void)
{
    uint8_t data[100];
    for (uint8_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 37);
    }
    uint32_t whole = tm_crc32c(0, data, sizeof(data));
    for (size_t cut = 0; cut <= sizeof(data); cut++) {
        uint32_t crc = tm_crc32c(tm_crc32c(0, data, cut), data + cut, sizeof(data) - cut);
        g_assert_cmphex(crc, ==, whole);
        crc = tm_crc32c_portable(0, data, cut);
        crc = tm_crc32c_portable(crc, data + cut, sizeof(data) - cut);
        g_assert_cmphex(crc, ==, whole);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/crc32c/known-values", test_known);
    g_test_add_func("/crc32c/same-as-definition", test_same_as_definition);
    g_test_add_func("/crc32c/pieces", test_pieces);
    return g_test_run();
}
