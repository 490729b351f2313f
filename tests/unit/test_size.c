// SPDX-License-Identifier: MIT
/* Sizes as text, and size classes. */
#include <glib.h>

#include "analyzer/core/size.h"

static void test_format(void)
{
    char text[TM_SIZE_TEXT];

    g_assert_cmpstr(tm_size_format(0, TM_SIZE_PLAIN, text), ==, "0 B");
    g_assert_cmpstr(tm_size_format(5119, TM_SIZE_PLAIN, text), ==, "5119 B");
    g_assert_cmpstr(tm_size_format(5120, TM_SIZE_PLAIN, text), ==, "5 KiB");
    g_assert_cmpstr(tm_size_format(-5119, TM_SIZE_SIGNED, text), ==, "-5119 B");
    g_assert_cmpstr(tm_size_format(-5120, TM_SIZE_SIGNED, text), ==, "-5 KiB");
    g_assert_cmpstr(tm_size_format(-6143, TM_SIZE_SIGNED, text), ==, "-5 KiB");
    g_assert_cmpstr(tm_size_format(0, TM_SIZE_SIGNED, text), ==, "+0 B");
    g_assert_cmpstr(tm_size_format(1024 * 1024 * 5 - 1, TM_SIZE_PLAIN, text), ==, "5119 KiB");
    g_assert_cmpstr(tm_size_format(G_MAXINT64, TM_SIZE_PLAIN, text), ==, "8388607 TiB");
    g_assert_cmpstr(tm_size_format(G_MININT64, TM_SIZE_SIGNED, text), ==, "-8388608 TiB");
}

static void test_class(void)
{
    g_assert_cmpuint(tm_size_class(0), ==, 0);
    g_assert_cmpuint(tm_size_class(1), ==, 16);
    g_assert_cmpuint(tm_size_class(16), ==, 16);
    g_assert_cmpuint(tm_size_class(17), ==, 32);
    g_assert_cmpuint(tm_size_class(512), ==, 512);
    g_assert_cmpuint(tm_size_class(513), ==, 1024);
    g_assert_cmpuint(tm_size_class(1024), ==, 1024);
    g_assert_cmpuint(tm_size_class(1025), ==, 2048);
    g_assert_cmpuint(tm_size_class(G_GUINT64_CONSTANT(1) << 62), ==, G_GUINT64_CONSTANT(1) << 62);
    g_assert_cmpuint(tm_size_class((G_GUINT64_CONSTANT(1) << 62) + 1), ==,
                     G_GUINT64_CONSTANT(1) << 63);
    g_assert_cmpuint(tm_size_class(G_MAXUINT64), ==, G_GUINT64_CONSTANT(1) << 63);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/analyzer/size/format", test_format);
    g_test_add_func("/analyzer/size/class", test_class);
    return g_test_run();
}
