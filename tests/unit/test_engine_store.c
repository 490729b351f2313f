// SPDX-License-Identifier: MIT
/*
 * The store under real threads on both lanes, with snapshots in between: every
 * snapshot adds up to the totals of its moment. A mutex plays the GIL.
 */
#include <glib.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "payload/intern.h"
#include "payload/sample.h"
#include "payload/store.h"

enum { THREADS = 4, BLOCKS = 3000, SITES = 40 };

static pthread_mutex_t gil = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool stop;
static uint32_t nodes[SITES];

static void no_mark(uint64_t addr, enum tm_lane lane)
{
    (void)addr;
    (void)lane;
}

static void set_up(void)
{
    g_assert_true(tm_store_init(4));
    tm_store.sample_mean_bytes = 0;
    tm_store.mark_freed = no_mark;
    pthread_mutex_lock(&tm_intern_lock);
    for (int i = 0; i < SITES; i++) {
        struct tm_site site = {.file = TM_NONE, .function = TM_NONE, .line = i + 1};
        nodes[i] = tm_intern_node_locked(0, tm_intern_site_locked(&site));
    }
    pthread_mutex_unlock(&tm_intern_lock);
}

static int64_t live_blocks(void)
{
    return (int64_t)tm_store_live_blocks();
}

static void test_sizes_beyond_the_entry(void)
{
    static const uint64_t sizes[] = {0,       1,          (1 << 24) - 2, (1 << 24) - 1,
                                     1 << 24, 0xffffffff, 1ull << 32,    (1ull << 46) + 5};
    uint64_t sum = 0;
    set_up();
    for (size_t round = 0; round < 3; round++)
        for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
            /* At an address that is in use: its free went past us. */
            tm_store_record(TM_LANE_GIL, 0x10000 + 16 * i, sizes[(i + round) % 8], 2, nodes[i]);
        }
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++)
        sum += sizes[i];
    g_assert_cmpint(tm_store_traced_bytes(), ==, (int64_t)sum);
    g_assert_cmpint(live_blocks(), ==, 8);
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint64_t addr = 0x10000 + 16 * i;
        struct tm_taken taken = tm_store_lift(TM_LANE_SHARED, addr);
        g_assert_cmpuint(taken.size_bytes, ==, sizes[(i + 2) % 8]);
        tm_store_drop_back(TM_LANE_SHARED, addr, taken);
    }
    g_assert_cmpint(tm_store_traced_bytes(), ==, (int64_t)sum);
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++)
        tm_store_forget(TM_LANE_GIL, 0x10000 + 16 * i);
    g_assert_cmpint(tm_store_traced_bytes(), ==, 0);
    g_assert_cmpint(live_blocks(), ==, 0);
    tm_store_forget(TM_LANE_GIL, 0x10000);
    tm_store_forget(TM_LANE_GIL, 0x999999990000);
    g_assert_cmpint(tm_store_traced_bytes(), ==, 0);
    tm_store_done();
}

static void test_many_large_ones(void)
{
    set_up();
    for (uint64_t round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < 5000; i++)
            tm_store_record(TM_LANE_GIL, 0x7f0000000000 + 16 * i, (1 << 24) + i, 0, nodes[0]);
        for (uint64_t i = round; i < 5000; i++)
            tm_store_forget(TM_LANE_GIL, 0x7f0000000000 + 16 * i);
    }
    g_assert_cmpint(live_blocks(), ==, 4);
    g_assert_cmpint(tm_store_traced_bytes(), ==, 4 * (1 << 24) + 0 + 1 + 2 + 3);
    g_assert_cmpuint(tm_state_export.overflow_slots, <=, 32768);
    tm_store_done();
}

static void test_marks_outlive_everything_but_the_free(void)
{
    set_up();
    g_assert_true(tm_store_mark(0x20000));
    tm_store_record(TM_LANE_GIL, 0x20010, 100, 2, nodes[0]);
    g_assert_true(tm_store_mark(0x20010));
    g_assert_cmpuint(*tm_shadow_find(0x20000), ==, TM_MARK_BIT);
    for (int i = 0; i < 2000; i++) { /* more than there are generations */
        struct tm_undo_log logs[TM_LANES];
        tm_store_snapshot_begin();
        tm_store_snapshot_end(logs);
        for (int lane = 0; lane < TM_LANES; lane++)
            tm_store_undo_free(&logs[lane]);
    }
    g_assert_cmpuint(*tm_shadow_find(0x20000), ==, TM_MARK_BIT);
    g_assert_true(*tm_shadow_find(0x20010) & TM_MARK_BIT);
    tm_store_forget(TM_LANE_GIL, 0x20010);
    tm_store_forget(TM_LANE_GIL, 0x20000);
    g_assert_cmpuint(*tm_shadow_find(0x20000), ==, 0);
    g_assert_cmpint(tm_store_traced_bytes(), ==, 0);
    tm_store_done();
}

struct churn {
    pthread_t thread;
    enum tm_lane lane;
    uint64_t base_addr, random;
    uint64_t size[BLOCKS]; /* + 1; 0: free */
    int64_t bytes, blocks;
};

static uint64_t draw(struct churn *churn)
{
    churn->random = churn->random * 6364136223846793005ull + 1442695040888963407ull;
    return churn->random >> 33;
}

static void step(struct churn *churn)
{
    uint64_t i = draw(churn) % BLOCKS, addr = churn->base_addr + 16 * i;
    uint64_t size = draw(churn) % 100 == 0 ? (1 << 24) + draw(churn) % 9 : draw(churn) % 5000;
    uint32_t node = nodes[draw(churn) % SITES];
    if (churn->size[i] == 0) {
        tm_store_record(churn->lane, addr, size, 1, node);
        churn->size[i] = size + 1;
        churn->bytes += (int64_t)size;
        churn->blocks++;
    } else if (draw(churn) % 4 == 0) {
        struct tm_taken taken = tm_store_lift(churn->lane, addr);
        g_assert_cmpuint(taken.size_bytes, ==, churn->size[i] - 1);
        tm_store_drop_back(churn->lane, addr, taken);
    } else {
        tm_store_forget(churn->lane, addr);
        churn->bytes -= (int64_t)churn->size[i] - 1;
        churn->blocks--;
        churn->size[i] = 0;
    }
}

static void *churn_main(void *data)
{
    struct churn *churn = data;
    pthread_mutex_t *lock = churn->lane == TM_LANE_GIL ? &gil : &tm_lane_locks[churn->lane].mutex;
    while (!atomic_load(&stop)) {
        pthread_mutex_lock(lock);
        for (int i = 0; i < 20; i++)
            step(churn);
        pthread_mutex_unlock(lock);
    }
    return NULL;
}

struct scan {
    uint32_t generation;
    GHashTable *seen; /* address -> size */
    GArray *late;
};

static void scan_chunk(void *data, uint64_t base_addr, uint64_t *entries)
{
    struct scan *scan = data;
    for (uint32_t i = 0; i < tm_shadow.chunk_entries; i++) {
        uint64_t entry = __atomic_load_n(&entries[i], __ATOMIC_RELAXED);
        uint64_t addr = base_addr + 16 * (uint64_t)i;
        if (tm_entry_domain_plus_1(entry) == 0 || tm_entry_generation(entry) == scan->generation)
            continue;
        if (tm_entry_size(entry) == TM_SIZE_OVERFLOW)
            g_array_append_val(scan->late, addr);
        else
            g_hash_table_insert(scan->seen, (gpointer)addr,
                                (gpointer)(uint64_t)tm_entry_size(entry));
    }
}

/* The moments and the scan as payload/snapshot.c has them. Returns the sum of the sizes. */
static void take_snapshot(int64_t *ret_wanted_bytes, int64_t *ret_wanted_blocks, int64_t *ret_bytes,
                          int64_t *ret_blocks)
{
    struct scan scan = {0, g_hash_table_new(NULL, NULL), g_array_new(FALSE, FALSE, 8)};
    struct tm_undo_log logs[TM_LANES];
    pthread_mutex_lock(&gil);
    tm_store_stop();
    *ret_wanted_bytes = tm_store_traced_bytes();
    *ret_wanted_blocks = live_blocks();
    tm_store_snapshot_begin();
    scan.generation = tm_store.generation;
    tm_store_go();
    pthread_mutex_unlock(&gil);
    tm_shadow_walk(scan_chunk, &scan);
    pthread_mutex_lock(&gil);
    tm_store_stop();
    tm_store_snapshot_end(logs);
    for (guint i = 0; i < scan.late->len; i++) {
        uint64_t addr = g_array_index(scan.late, uint64_t, i);
        g_hash_table_insert(scan.seen, (gpointer)addr, (gpointer)tm_store_overflow_find(addr));
    }
    tm_store_go();
    pthread_mutex_unlock(&gil);
    for (int lane = 0; lane < TM_LANES; lane++) {
        g_assert_false(logs[lane].lost);
        for (uint32_t i = 0; i < logs[lane].used; i++)
            g_hash_table_insert(scan.seen, (gpointer)logs[lane].records[i].addr,
                                (gpointer)logs[lane].records[i].size_bytes);
        tm_store_undo_free(&logs[lane]);
    }
    GHashTableIter iter;
    gpointer size;
    *ret_bytes = 0;
    *ret_blocks = g_hash_table_size(scan.seen);
    g_hash_table_iter_init(&iter, scan.seen);
    while (g_hash_table_iter_next(&iter, NULL, &size))
        *ret_bytes += (int64_t)size;
    g_hash_table_unref(scan.seen);
    g_array_unref(scan.late);
}

static void test_snapshots_add_up_under_load(void)
{
    static struct churn churn[THREADS];
    int64_t bytes = 0, blocks = 0;
    set_up();
    atomic_store(&stop, false);
    for (int i = 0; i < THREADS; i++) {
        churn[i] = (struct churn){.lane = i % 2 ? TM_LANE_SHARED : TM_LANE_GIL,
                                  .base_addr = 0x7f0000000000 + 0x40000 * (uint64_t)i,
                                  .random = (uint64_t)i};
        g_assert_cmpint(pthread_create(&churn[i].thread, NULL, churn_main, &churn[i]), ==, 0);
    }
    for (int i = 0; i < 60; i++) {
        int64_t wanted_bytes, wanted_blocks, found_bytes, found_blocks;
        take_snapshot(&wanted_bytes, &wanted_blocks, &found_bytes, &found_blocks);
        g_assert_cmpint(found_blocks, ==, wanted_blocks);
        g_assert_cmpint(found_bytes, ==, wanted_bytes);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(churn[i].thread, NULL);
        bytes += churn[i].bytes;
        blocks += churn[i].blocks;
    }
    g_assert_cmpint(tm_store_traced_bytes(), ==, bytes);
    g_assert_cmpint(live_blocks(), ==, blocks);
    g_assert_cmpuint(atomic_load(&tm_state_export.dropped), ==, 0);
    tm_store_done();
}

/* ---- free-threaded: every thread has a lane, and blocks go from thread to thread ---- */

enum { FREE_THREADS = 8, SHARED_BLOCKS = 4000, FREE_STEPS = 40000 };

/* A block has an owner as long as its place is BUSY, and no entry while its place is EMPTY. */
enum { EMPTY = 0, LIVE = 1, BUSY = 2 };

struct common {
    _Atomic uint32_t place[SHARED_BLOCKS];
    uint64_t size[SHARED_BLOCKS]; /* of whom has the place */
};
static struct common common;

struct free_thread {
    pthread_t thread;
    enum tm_lane lane;
    uint64_t random;
    int64_t bytes, blocks; /* that it recorded less those that it forgot */
};

/* Threads that intern at the same moment get the same node for the same path. */
static void intern_step(uint64_t random)
{
    enum { DEPTH = 6 };
    uint32_t path[DEPTH], node;
    for (int i = 0; i < DEPTH; i++)
        path[i] = tm_intern_node_at(nodes[(random >> (5 * i)) % SITES])->site;
    node = tm_intern_path(path, DEPTH);
    g_assert_cmpuint(tm_intern_path(path, DEPTH), ==, node);
    for (int i = 0; i < DEPTH; i++, node = tm_intern_node_at(node)->parent)
        g_assert_cmpuint(tm_intern_node_at(node)->site, ==, path[i]);
    g_assert_cmpuint(node, ==, 0);
}

static void free_step(struct free_thread *t)
{
    t->random = t->random * 6364136223846793005ull + 1442695040888963407ull;
    if ((t->random >> 60) == 0)
        intern_step(t->random >> 20);
    uint64_t random = t->random >> 33, i = random % SHARED_BLOCKS;
    uint64_t addr = 0x7f0000000000 + 16 * i;
    uint32_t was = atomic_exchange(&common.place[i], BUSY);
    if (was == BUSY)
        return;
    tm_lane_take(t->lane);
    if (was == EMPTY) {
        common.size[i] = random % 64 == 0 ? (1 << 24) + random % 9 : random % 5000;
        tm_store_record(t->lane, addr, common.size[i], 1, nodes[random % SITES]);
        t->bytes += (int64_t)common.size[i];
        t->blocks++;
        was = LIVE;
    } else if (random % 4 == 0) {
        struct tm_taken taken = tm_store_lift(t->lane, addr);
        g_assert_cmpuint(taken.size_bytes, ==, common.size[i]);
        tm_store_drop_back(t->lane, addr, taken);
    } else {
        tm_store_forget(t->lane, addr);
        t->bytes -= (int64_t)common.size[i];
        t->blocks--;
        was = EMPTY;
    }
    tm_lane_drop(t->lane);
    atomic_store(&common.place[i], was);
}

static void *free_main(void *data)
{
    for (int i = 0; i < FREE_STEPS; i++)
        free_step(data);
    return NULL;
}

/* More threads than lanes would share them; here the last two have one together. */
static void test_lanes_of_their_own(void)
{
    static struct free_thread threads[FREE_THREADS];
    int64_t bytes = 0, blocks = 0, peak;
    tm_lanes_used = TM_LANES;
    set_up();
    memset(&common, 0, sizeof(common));
    for (int i = 0; i < FREE_THREADS; i++) {
        threads[i] = (struct free_thread){
            .lane = TM_LANE_SHARED + (enum tm_lane)MIN(i, FREE_THREADS - 2), .random = (uint64_t)i};
        g_assert_cmpint(pthread_create(&threads[i].thread, NULL, free_main, &threads[i]), ==, 0);
    }
    for (int i = 0; i < 40; i++) {
        int64_t wanted_bytes, wanted_blocks, found_bytes, found_blocks;
        take_snapshot(&wanted_bytes, &wanted_blocks, &found_bytes, &found_blocks);
        g_assert_cmpint(found_blocks, ==, wanted_blocks);
        g_assert_cmpint(found_bytes, ==, wanted_bytes);
    }
    for (int i = 0; i < FREE_THREADS; i++) {
        pthread_join(threads[i].thread, NULL);
        bytes += threads[i].bytes;
        blocks += threads[i].blocks;
    }
    g_assert_cmpint(tm_store_traced_bytes(), ==, bytes);
    g_assert_cmpint(live_blocks(), ==, blocks);
    peak = atomic_load(&tm_state_export.shared_peak_bytes);
    g_assert_cmpint(peak, >=, bytes);
    g_assert_cmpuint(atomic_load(&tm_state_export.dropped), ==, 0);
    tm_store_done();
    tm_lanes_used = TM_LANE_SHARED + 1;
}

/* ---- sampling: a free looks only where its page holds an entry ---- */

enum { PAGE_ROUNDS = 60000, PAGE_NEIGHBOURS = 3 };

static void *neighbour_main(void *data)
{
    uint64_t addr = (uint64_t)data;
    while (!atomic_load(&stop)) {
        tm_lane_take(TM_LANE_SHARED);
        tm_store_record(TM_LANE_SHARED, addr, 1 << 20, 0, nodes[1]);
        tm_lane_drop(TM_LANE_SHARED);
        tm_lane_take(TM_LANE_SHARED);
        tm_store_forget(TM_LANE_SHARED, addr);
        tm_lane_drop(TM_LANE_SHARED);
    }
    return NULL;
}

/* What is sampled under the GIL stays in sight while threads without it empty the same page. */
static void test_no_page_is_empty_that_is_not(void)
{
    static const uint64_t page = 0x7f0000003000;
    pthread_t threads[PAGE_NEIGHBOURS];
    set_up();
    tm_store.sample_mean_bytes = 4096;
    tm_sample_init(4096, 1);
    atomic_store(&stop, false);
    for (uint64_t i = 0; i < PAGE_NEIGHBOURS; i++)
        g_assert_cmpint(
            pthread_create(&threads[i], NULL, neighbour_main, (void *)(page + 16 * (i + 1))), ==,
            0);
    for (int i = 0; i < PAGE_ROUNDS; i++) {
        tm_store_record(TM_LANE_GIL, page, 5000, 2, nodes[0]);
        g_assert_true(tm_sample_page_used(page));
        sched_yield();
        g_assert_true(tm_sample_page_used(page));
        tm_store_forget(TM_LANE_GIL, page);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < PAGE_NEIGHBOURS; i++)
        pthread_join(threads[i], NULL);
    g_assert_false(tm_sample_page_used(page));
    g_assert_cmpint(tm_store_traced_bytes(), ==, 0);
    g_assert_cmpint(live_blocks(), ==, 0);
    tm_store_done();
}

/* Pages far apart share a count: one that cannot be kept says "look" for good. */
static void test_a_page_of_too_many(void)
{
    set_up();
    tm_sample_init(4096, 1);
    g_assert_false(tm_sample_page_used(0x5000));
    for (int i = 0; i < 70000; i++)
        tm_store_note_page(0x5000 + ((uint64_t)(i % 300) << 28));
    for (int i = 0; i < 70000; i++)
        tm_store_drop_page(0x5000);
    g_assert_true(tm_sample_page_used(0x5000));
    g_assert_false(tm_sample_page_used(0x6000));
    tm_sample_init(4096, 1);
    g_assert_false(tm_sample_page_used(0x5000));
    tm_store_done();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/store/sizes-beyond-the-entry", test_sizes_beyond_the_entry);
    g_test_add_func("/engine/store/many-large-ones", test_many_large_ones);
    g_test_add_func("/engine/store/marks", test_marks_outlive_everything_but_the_free);
    g_test_add_func("/engine/store/snapshots-add-up", test_snapshots_add_up_under_load);
    g_test_add_func("/engine/store/lanes-of-their-own", test_lanes_of_their_own);
    g_test_add_func("/engine/store/sampled-pages", test_no_page_is_empty_that_is_not);
    g_test_add_func("/engine/store/a-page-of-too-many", test_a_page_of_too_many);
    return g_test_run();
}
