// SPDX-License-Identifier: MIT
#include "format/utf8.h"

#include <glib.h>
#include <string.h>

static void test_round_trip(void)
{
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        char bytes[TM_UTF8_MAX];
        uint32_t back = 0;
        size_t n_bytes = tm_utf8_encode(c, bytes);

        g_assert_cmpuint(tm_utf8_decode(bytes, n_bytes, &back), ==, n_bytes);
        g_assert_cmpuint(back, ==, c);
        /* Cut off, it is none. */
        if (n_bytes > 1)
            g_assert_cmpuint(tm_utf8_decode(bytes, n_bytes - 1, &back), ==, 0);
        if (!tm_utf8_is_surrogate(c)) {
            char theirs[6];
            g_assert_cmpint(g_unichar_to_utf8(c, theirs), ==, (int)n_bytes);
            g_assert_cmpint(memcmp(bytes, theirs, n_bytes), ==, 0);
        }
    }
}

static void test_refuses(void)
{
    static const char *const bad[] = {
        "\x80",         "\xbf",     "\xc0\x80",         "\xc1\xbf",         "\xc2",         "\xc2 ",
        "\xe0\x9f\xbf", "\xe2\x82", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80", "\xff",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint32_t c = 7;
        g_assert_cmpuint(tm_utf8_decode(bad[i], strlen(bad[i]), &c), ==, 0);
        g_assert_cmpuint(c, ==, 7);
    }
}

static void test_beyond_unicode(void)
{
    char bytes[TM_UTF8_MAX];

    g_assert_cmpuint(tm_utf8_encode(0xffffffffu, bytes), ==, 3);
    g_assert_cmpint(memcmp(bytes, "\xef\xbf\xbd", 3), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/utf8/round-trip", test_round_trip);
    g_test_add_func("/utf8/refuses", test_refuses);
    g_test_add_func("/utf8/beyond-unicode", test_beyond_unicode);
    return g_test_run();
}
