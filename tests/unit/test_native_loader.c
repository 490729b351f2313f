// SPDX-License-Identifier: MIT
/* The loader's counters where they lie, beside what dl_iterate_phdr says of them. */
#include <dlfcn.h>
#include <glib.h>
#include <link.h>

#include "payload/native/loader.h"

enum { ROUNDS = 200 };

/* Of the C library's package, and hardly in use by anything. */
static const char *const libraries[] = {"libBrokenLocale.so.1", "libanl.so.1", "libthread_db.so.1"};

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    *(struct dl_phdr_info *)data = *info;
    return 1;
}

static struct dl_phdr_info ask(void)
{
    struct dl_phdr_info info = {0};
    dl_iterate_phdr(visit, &info);
    return info;
}

/* Nobody loads anything meanwhile. */
static void check_words(void)
{
    struct dl_phdr_info info = ask();
    gboolean found = FALSE;
    g_assert_nonnull(tm_native_loader.loaded);
    g_assert_cmpuint(*tm_native_loader.loaded, ==, info.dlpi_adds - info.dlpi_subs);
    for (guint i = 0; i < tm_native_loader.n_adds; i++)
        found |= *tm_native_loader.adds[i] == info.dlpi_adds;
    g_assert_true(found);
}

static const char *find_library(void)
{
    for (gsize i = 0; i < G_N_ELEMENTS(libraries); i++) {
        void *handle = dlopen(libraries[i], RTLD_NOW | RTLD_NOLOAD);
        if (handle == NULL && (handle = dlopen(libraries[i], RTLD_NOW)) != NULL) {
            dlclose(handle);
            return libraries[i];
        }
        if (handle != NULL)
            dlclose(handle);
    }
    g_assert_not_reached();
}

/* A library that comes, and one that goes, makes a stamp that was never there before. */
static void test_stamp(void)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    const char *library = find_library();
    void *handle = NULL;
    tm_native_loader_setup();
    check_words();
    for (int i = 0; i < 2 * ROUNDS; i++) {
        guint64 stamp = tm_native_loader_stamp();
        g_assert_true(g_hash_table_add(seen, g_memdup2(&stamp, sizeof(stamp))));
        g_assert_cmpuint(tm_native_loader_stamp(), ==, stamp);
        if (handle == NULL) {
            handle = dlopen(library, RTLD_NOW);
            g_assert_nonnull(handle);
            void *again = dlopen(library, RTLD_NOW); /* is there already */
            stamp = tm_native_loader_stamp();
            g_assert_true(again == handle);
            dlclose(again);
            g_assert_cmpuint(tm_native_loader_stamp(), ==, stamp);
        } else {
            dlclose(handle);
            handle = NULL;
        }
        check_words();
    }
}

static gint stop, n_loads;

static gpointer load(gpointer library)
{
    while (!g_atomic_int_get(&stop)) {
        void *handle = dlopen(library, RTLD_NOW);
        g_assert_nonnull(handle);
        dlclose(handle);
        g_atomic_int_inc(&n_loads);
    }
    return NULL;
}

/* Beside a thread that loads all the time, the right words are found, or none. */
static void test_beside_loads(void)
{
    const char *library = find_library();
    guint n_found = 0;
    for (int i = 0; i < ROUNDS; i++) {
        g_atomic_int_set(&stop, 0);
        g_atomic_int_set(&n_loads, 0);
        tm_native_loader = (struct tm_native_loader){0};
        g_assert_cmpuint(tm_native_loader_stamp(), ==, 0);
        GThread *thread = g_thread_new("load", load, (gpointer)library);
        while (g_atomic_int_get(&n_loads) == 0)
            g_thread_yield();
        tm_native_loader_setup();
        g_atomic_int_set(&stop, 1);
        g_thread_join(thread);
        if (tm_native_loader.loaded != NULL) {
            check_words();
            n_found++;
        }
    }
    g_test_message("found in %u of %d rounds", n_found, ROUNDS);
    tm_native_loader_setup();
    check_words();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/native/loader/stamp", test_stamp);
    g_test_add_func("/native/loader/beside-loads", test_beside_loads);
    return g_test_run();
}
