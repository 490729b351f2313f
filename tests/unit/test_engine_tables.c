// SPDX-License-Identifier: MIT
/* mem, vec, index, intern, shadow, sample and filter: the engine's tables, one by one. */
#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "format/pattern.h"
#include "payload/filter.h"
#include "payload/index.h"
#include "payload/intern.h"
#include "payload/mem.h"
#include "payload/sample.h"
#include "payload/shadow.h"
#include "payload/store.h"
#include "payload/vec.h"

static uint64_t own_bytes(void)
{
    return atomic_load(&tm_state_export.own_bytes);
}

static void test_mem_counts_what_is_used(void)
{
    uint64_t before = own_bytes();
    errno = 7;
    char *dense = tm_mem_map(10000);
    g_assert_cmpuint(own_bytes() - before, ==, 12288);
    char *sparse = tm_mem_map_sparse(1 << 20);
    g_assert_cmpuint(own_bytes() - before, ==, 12288);
    sparse[5 * 4096] = 1;
    sparse[300 % 256 * 4096] = 1;
    unsigned char pages[256];
    g_assert_cmpuint(tm_mem_resident_bytes(sparse, 1 << 20, pages), ==, 2 * 4096);
    g_assert_true(pages[5] && pages[44] && !pages[6]);
    tm_mem_discard(sparse + 5 * 4096, 4096);
    g_assert_cmpuint(tm_mem_resident_bytes(sparse, 1 << 20, NULL), ==, 4096);
    g_assert_cmpint(sparse[5 * 4096], ==, 0);
    tm_mem_set_sparse(4096);
    g_assert_cmpuint(own_bytes() - before, ==, 12288 + 4096);
    tm_mem_set_sparse(0);
    tm_mem_unmap_sparse(sparse, 1 << 20);
    tm_mem_unmap(dense, 10000);
    tm_mem_unmap(NULL, 10000);
    g_assert_null(tm_mem_map((size_t)1 << 60));
    g_assert_cmpuint(own_bytes(), ==, before);
    g_assert_cmpint(errno, ==, 7);
}

static void test_vec_never_moves(void)
{
    struct tm_vec vec;
    g_assert_true(tm_vec_init(&vec, sizeof(uint64_t)));
    g_assert_null(tm_vec_find(&vec, 0, sizeof(uint64_t)));
    g_assert_true(tm_vec_reserve(&vec, 0));
    uint64_t *first = tm_vec_at(&vec, 0, sizeof(uint64_t));
    *first = 42;
    uint32_t far = TM_VEC_MAX - 1;
    g_assert_true(tm_vec_reserve(&vec, far));
    *(uint64_t *)tm_vec_at(&vec, far, sizeof(uint64_t)) = 43;
    g_assert_true(tm_vec_at(&vec, 0, sizeof(uint64_t)) == first);
    g_assert_cmpuint(*first, ==, 42);
    g_assert_null(tm_vec_find(&vec, TM_VEC_SEGMENT_ELEMS, sizeof(uint64_t)));
    g_assert_cmpuint(tm_vec_resident_bytes(&vec), >=, 2 * 4096);
    tm_vec_done(&vec);
    tm_vec_done(&vec);
    g_assert_false(tm_vec_reserve(&vec, 0));
}

static void test_index_grows(void)
{
    struct tm_index index = {0};
    for (uint32_t id = 0; id < 100000; id++) {
        g_assert_true(tm_index_reserve(&index));
        tm_index_add(&index, id % 977, id); /* long runs of equal hashes */
        if (id == 5000)
            id = 99000;
    }
    uint32_t seen = 0;
    for (uint32_t i = 0; i < index.capacity; i++)
        seen += index.slots[i].id_plus_1 != 0;
    g_assert_cmpuint(seen, ==, index.used);
    g_assert_cmpuint(index.capacity & (index.capacity - 1), ==, 0);
    g_assert_cmpuint(index.used, <, index.capacity);
    tm_index_done(&index);
    tm_index_done(&index);
}

static uint32_t site(const char *file, int32_t line)
{
    struct tm_site new_site = {.file = TM_NONE, .function = TM_NONE, .line = line};
    pthread_mutex_lock(&tm_intern_lock);
    if (file != NULL)
        new_site.file = tm_intern_string_locked(file, (uint32_t)strlen(file));
    uint32_t id = tm_intern_site_locked(&new_site);
    pthread_mutex_unlock(&tm_intern_lock);
    return id;
}

static uint32_t node(uint32_t parent, uint32_t of_site)
{
    pthread_mutex_lock(&tm_intern_lock);
    uint32_t id = tm_intern_node_locked(parent, of_site);
    pthread_mutex_unlock(&tm_intern_lock);
    return id;
}

static void test_intern_keeps_each_once(void)
{
    g_assert_true(tm_store_init(4));
    uint32_t a = site("a.py", 1), b = site("a.py", 2), c = site(NULL, 1);
    g_assert_cmpuint(a, !=, b);
    g_assert_cmpuint(a, !=, c);
    g_assert_cmpuint(site("a.py", 1), ==, a);
    g_assert_cmpuint(tm_intern_site_at(c)->file, ==, TM_NONE);
    uint32_t top = node(node(0, a), b);
    g_assert_cmpuint(node(node(0, a), b), ==, top);
    g_assert_cmpuint(node(node(0, b), a), !=, top);
    g_assert_cmpuint(tm_intern_node_at(top)->depth, ==, 2);
    for (int32_t i = 1; i < 20000; i++) {
        char name[32];
        snprintf(name, sizeof(name), "f%d", i);
        g_assert_cmpuint(site(name, i), ==, site(name, i));
    }
    g_assert_cmpuint(site("a.py", 2), ==, b);
    g_autofree char *long_name = g_strnfill(100000, 'x');
    uint32_t big = site(long_name, 1);
    struct tm_string *text = tm_intern_string_at(tm_intern_site_at(big)->file);
    g_assert_cmpuint(text->n_bytes, ==, 100000);
    g_assert_cmpmem((void *)text->addr, text->n_bytes, long_name, 100000);
    tm_store_done();
    g_assert_cmpuint(own_bytes(), ==, 0);
}

static void test_shadow_refuses_what_it_cannot_keep(void)
{
    for (uint32_t shift = 3; shift <= 4; shift++) {
        g_assert_true(tm_store_init(shift));
        uint64_t granule = 1u << shift, addr = 0x7f1234567ff0;
        g_assert_null(tm_shadow_find(addr));
        uint64_t *slot = tm_shadow_make(addr);
        g_assert_nonnull(slot);
        g_assert_true(tm_shadow_find(addr) == slot);
        g_assert_true(tm_shadow_make(addr + granule) == slot + 1 ||
                      ((addr + granule) & 0xfffff) == 0);
        g_assert_null(tm_shadow_make(addr + 1));
        g_assert_null(tm_shadow_find(addr + granule / 2));
        g_assert_null(tm_shadow_make(1ull << 47));
        g_assert_null(tm_shadow_find(0xffff800000000000));
        g_assert_nonnull(tm_shadow_make((1ull << 47) - granule));
        g_assert_nonnull(tm_shadow_make(0));
        tm_store_done();
    }
}

static void count_entries(void *data, uint64_t base_addr, uint64_t *entries)
{
    uint64_t *seen = data;
    g_assert_cmpuint(base_addr, >=, seen[1]);
    seen[1] = base_addr + 1;
    for (uint32_t i = 0; i < tm_shadow.chunk_entries; i++)
        seen[0] += entries[i] != 0;
}

static void test_shadow_walks_and_trims(void)
{
    struct tm_shadow_trim trim = {0};
    uint64_t seen[2] = {0, 0};
    g_assert_true(tm_store_init(4));
    for (uint64_t addr = 0x10000000; addr < 0x10000000 + (8 << 20); addr += 4096)
        *tm_shadow_make(addr) = 1;
    *tm_shadow_make(0x700000000000) = 1;
    size_t full = tm_shadow_resident_bytes();
    for (uint64_t addr = 0x10000000 + 4096; addr < 0x10000000 + (8 << 20); addr += 4096)
        *tm_shadow_find(addr) = 0;
    size_t freed = 0;
    while (tm_shadow_trim_find(&trim)) {
        if (freed == 0) /* somebody was faster than the locks */
            trim.pages[0][0] = 7;
        freed += tm_shadow_trim_do(&trim);
    }
    g_assert_cmpuint(freed, ==, (1024 - 2) * 4096);
    g_assert_cmpuint(full - tm_shadow_resident_bytes(), ==, freed);
    g_assert_cmpuint(*tm_shadow_find(0x10000000), ==, 1);
    tm_shadow_walk(count_entries, seen);
    g_assert_cmpuint(seen[0], ==, 3);
    tm_store_done();
}

static void test_sampling_has_the_right_chance(void)
{
    const uint64_t mean = 1000, n = 200000;
    g_assert_true(tm_store_init(4));
    tm_store.sample_mean_bytes = (double)mean;
    for (uint64_t size = 16; size < 5000; size *= 4) {
        tm_sample_init(mean, 12345);
        double sum = 0;
        for (uint64_t i = 0; i < n; i++)
            if (tm_sample_take(TM_LANE_GIL, size))
                sum += (double)tm_store_scaled_weight(size).bytes;
        double truth = (double)(size * n), chance = (double)size / (double)mean;
        /* The variance of the estimate is at most truth^2 / (n * chance); five deviations. */
        double error = (sum - truth) / truth, n_chance = (double)n * (chance < 1 ? chance : 1);
        g_assert_cmpfloat(error * error, <, 25 / n_chance);
    }
    g_assert_cmpint(tm_store_scaled_weight(1 << 30).blocks, ==, TM_BLOCK_SCALE);
    g_assert_cmpint(tm_store_scaled_weight(1 << 30).bytes, ==, 1 << 30);
    tm_store.sample_mean_bytes = 0;
    tm_store_done();
}

static bool matches(const char *pattern, const char *name)
{
    char normal[300];
    size_t n_bytes = tm_pattern_normalize(pattern, strlen(pattern), normal);
    g_assert_cmpuint(n_bytes, <=, sizeof(normal));
    return tm_pattern_matches(normal, n_bytes, name, strlen(name));
}

static void test_patterns(void)
{
    static const struct {
        const char *pattern, *name;
        bool match;
    } cases[] = {
        {"a.py", "a.py", true},    {"a.py", "x/a.py", false},
        {"a.pyc", "a.py", true},   {"a.py", "a.pyo", true},
        {"a.pyx", "a.py", false},  {"*", "", true},
        {"*", "x", true},          {"", "", true},
        {"", "x", false},          {"a*", "a", true},
        {"a*a", "a", false},       {"a*a", "aa", true},
        {"*a*b*", "xaxxbx", true}, {"*a*b*", "ba", false},
        {"a*b*c", "aXbXc", true},  {"a*b*c", "aXcXb", false},
        {"ab*bc", "abc", false},   {"**a***", "xay", true},
        {"A.py", "a.py", false},   {"*.pyc", "x.py", true},
        {"a.py*", "a.pyc", true},  {"*aab", "aaaab", true},
        {"*ab*ab", "abab", true},  {"*ab*ab", "ab", false},
        {".pyc", ".py", true},     {"pyc", "py", false},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
        if (matches(cases[i].pattern, cases[i].name) != cases[i].match)
            g_error("%s against %s", cases[i].pattern, cases[i].name);
    char jokers[202], normal[202];
    for (int i = 0; i < 101; i++)
        memcpy(jokers + 2 * i, "*a", 2);
    g_assert_cmpuint(tm_pattern_normalize(jokers, 200, normal), ==, 200);
    g_assert_cmpuint(tm_pattern_normalize(jokers, 202, normal), ==, SIZE_MAX);
}

static void test_filters_decide_on_old_and_new(void)
{
    g_assert_true(tm_store_init(4));
    uint32_t a = node(0, site("a.py", 3)), under_a = node(a, site("b.py", 1));
    struct tm_filter_spec in_a = {"a.py", 4, 3, TM_FILTERS_INCLUDE | TM_FILTERS_TRACEBACK};
    g_assert_false(tm_filter_any());
    g_assert_cmpint(tm_filter_replace(&in_a, 1), ==, 0);
    g_assert_true(tm_filter_any());
    g_assert_false(tm_intern_node_at(under_a)->flags & TM_NODE_EXCLUDED);
    uint32_t new_under = node(under_a, site("c.py", 1)), other = node(0, site("c.py", 1));
    g_assert_false(tm_intern_node_at(new_under)->flags & TM_NODE_EXCLUDED);
    g_assert_true(tm_intern_node_at(other)->flags & TM_NODE_EXCLUDED);
    g_assert_true(tm_intern_node_at(0)->flags & TM_NODE_EXCLUDED);
    in_a.line = 4;
    g_assert_cmpint(tm_filter_replace(&in_a, 1), ==, 0);
    g_assert_true(tm_intern_node_at(new_under)->flags & TM_NODE_EXCLUDED);
    struct tm_filter_spec not_a = {"a.py", 4, 0, 0};
    g_assert_cmpint(tm_filter_replace(&not_a, 1), ==, 0);
    g_assert_true(tm_intern_node_at(a)->flags & TM_NODE_EXCLUDED);
    g_assert_false(tm_intern_node_at(under_a)->flags & TM_NODE_EXCLUDED);
    g_assert_false(tm_intern_node_at(0)->flags & TM_NODE_EXCLUDED);
    g_assert_cmpint(tm_filter_replace(&not_a, TM_FILTERS_MAX + 1), ==, -E2BIG);
    g_assert_true(tm_intern_node_at(a)->flags & TM_NODE_EXCLUDED);
    g_assert_cmpint(tm_filter_replace(NULL, 0), ==, 0);
    g_assert_cmpuint(tm_intern_node_at(a)->flags, ==, 0);
    tm_store_done();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/mem/counts-what-is-used", test_mem_counts_what_is_used);
    g_test_add_func("/engine/vec/never-moves", test_vec_never_moves);
    g_test_add_func("/engine/index/grows", test_index_grows);
    g_test_add_func("/engine/intern/keeps-each-once", test_intern_keeps_each_once);
    g_test_add_func("/engine/shadow/refuses", test_shadow_refuses_what_it_cannot_keep);
    g_test_add_func("/engine/shadow/walks-and-trims", test_shadow_walks_and_trims);
    g_test_add_func("/engine/sample/chance", test_sampling_has_the_right_chance);
    g_test_add_func("/engine/pattern", test_patterns);
    g_test_add_func("/engine/filter/old-and-new", test_filters_decide_on_old_and_new);
    return g_test_run();
}
