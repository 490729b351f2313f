// SPDX-License-Identifier: MIT
/* payload/output.c: files appear whole, or not at all, and over nobody else's. */
#include "payload/output.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/stub_engine/stub_engine.h"

typedef struct {
    char *path;
    struct tm_output output;
    struct tm_output_result result;
    char message[256];
} fixture;

static void set_up(fixture *f, gconstpointer data)
{
    (void)data;
    f->path = g_dir_make_tmp("tm-output-XXXXXX", NULL);
    g_assert_nonnull(f->path);
    tm_output_init(&f->output);
    memset(&tm_stub, 0, sizeof(tm_stub));
}

static void tear_down(fixture *f, gconstpointer data)
{
    (void)data;
    tm_output_done(&f->output);
    g_autoptr(GDir) dir = g_dir_open(f->path, 0, NULL);
    const char *name;
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(f->path, name, NULL);
        g_remove(path);
    }
    g_rmdir(f->path);
    g_free(f->path);
}

static int configure(fixture *f, const char *template)
{
    struct tm_options options;

    tm_options_init(&options);
    options.shown_pid = 7;
    g_strlcpy(options.output, template, sizeof(options.output));
    return tm_output_configure(&f->output, &options, open(f->path, O_RDONLY | O_DIRECTORY),
                               f->message, sizeof(f->message));
}

static int write_one(fixture *f)
{
    struct tm_snapshot_options options = {.reason = "delay"};

    return tm_output_write(&f->output, &options, &f->result);
}

static unsigned count_files(const fixture *f)
{
    unsigned n = 0;
    g_autoptr(GDir) dir = g_dir_open(f->path, 0, NULL);

    while (g_dir_read_name(dir))
        n++;
    return n;
}

static char *contents(const fixture *f, const char *name)
{
    g_autofree char *path = g_build_filename(f->path, name, NULL);
    char *text = NULL;

    g_file_get_contents(path, &text, NULL, NULL);
    return text;
}

static void put(const fixture *f, const char *name)
{
    g_autofree char *path = g_build_filename(f->path, name, NULL);

    g_assert_true(g_file_set_contents(path, "precious", -1, NULL));
}

static void test_counts(fixture *f, gconstpointer data)
{
    (void)data;
    g_assert_cmpint(configure(f, "s-$pid-$counter.tms"), ==, 0);
    g_assert_cmpuint(count_files(f), ==, 0);
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpstr(f->result.file, ==, "s-7-0001.tms");
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpstr(f->result.file, ==, "s-7-0002.tms");
    g_assert_cmpuint(count_files(f), ==, 2);
    g_autofree char *text = contents(f, "s-7-0002.tms");
    g_assert_cmpstr(text, ==, "stub 2 delay\n");
}

static void test_named_drafts(fixture *f, gconstpointer data)
{
    (void)data;
    g_assert_cmpint(configure(f, "s-$counter.tms"), ==, 0);
    f->output.anonymous = false; /* a file system without O_TMPFILE */
    put(f, "s-0001.tms");
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpstr(f->result.file, ==, "s-0002.tms");
    tm_stub.snapshot_status = -ENOSPC;
    g_assert_cmpint(write_one(f), ==, -ENOSPC);
    g_assert_cmpuint(count_files(f), ==, 2);
}

static void test_skips_taken_names(fixture *f, gconstpointer data)
{
    (void)data;
    put(f, "s-0001.tms");
    put(f, "s-0003.tms");
    g_assert_cmpint(configure(f, "s-$counter.tms"), ==, 0);
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpstr(f->result.file, ==, "s-0002.tms");
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpstr(f->result.file, ==, "s-0004.tms");
    g_autofree char *text = contents(f, "s-0001.tms");
    g_assert_cmpstr(text, ==, "precious");
}

static void test_one_name(fixture *f, gconstpointer data)
{
    (void)data;
    put(f, "leak.tms");
    g_assert_cmpint(configure(f, "leak.tms"), ==, -EEXIST);
    g_assert_nonnull(strstr(f->message, "leak.tms"));
    g_assert_cmpint(configure(f, "other.tms"), ==, 0);
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpint(write_one(f), ==, 0); /* our own */
    g_autofree char *text = contents(f, "other.tms");
    g_assert_cmpstr(text, ==, "stub 2 delay\n");
    put(f, "other.tms"); /* replaced by somebody */
    g_assert_cmpint(write_one(f), ==, -EEXIST);
    g_autofree char *again = contents(f, "other.tms");
    g_assert_cmpstr(again, ==, "precious");
    g_assert_cmpuint(count_files(f), ==, 2);
}

static void test_failure_leaves_nothing(fixture *f, gconstpointer data)
{
    (void)data;
    g_assert_cmpint(configure(f, "s-$counter.tms"), ==, 0);
    tm_stub.snapshot_status = -ENOSPC;
    g_assert_cmpint(write_one(f), ==, -ENOSPC);
    g_assert_cmpstr(f->result.message, ==, "s-0001.tms: the disk is full");
    g_assert_cmpuint(count_files(f), ==, 0);
    tm_stub.snapshot_status = 0;
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpstr(f->result.file, ==, "s-0002.tms"); /* the counter advanced */
}

static void test_bad_places(fixture *f, gconstpointer data)
{
    (void)data;
    g_assert_cmpint(configure(f, "nowhere/s-$counter.tms"), ==, -ENOENT);
    put(f, "file");
    g_assert_cmpint(configure(f, "file/s-$counter.tms"), ==, -ENOTDIR);
    g_assert_cmpint(configure(f, "/proc/s-$counter.tms"), <, 0);
    g_autofree char *name = g_strnfill(300, 'n');
    g_assert_cmpint(configure(f, name), ==, -ENAMETOOLONG);
    g_assert_cmpint(f->output.directory.fd, ==, -1);
}

static void test_slashes(fixture *f, gconstpointer data)
{
    (void)data;
    g_autofree char *absolute = g_build_filename(f->path, "abs-$counter.tms", NULL);
    g_autofree char *up = g_strconcat("../", strrchr(f->path, '/') + 1, "/up-$counter.tms", NULL);

    g_assert_cmpint(configure(f, absolute), ==, 0);
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpint(configure(f, up), ==, 0);
    g_assert_cmpint(write_one(f), ==, 0);
    g_assert_cmpuint(count_files(f), ==, 2);
    g_autofree char *text = contents(f, "up-0002.tms");
    g_assert_nonnull(text);
}

static void test_directory_closed_by_program(fixture *f, gconstpointer data)
{
    (void)data;
    g_assert_cmpint(configure(f, "s-$counter.tms"), ==, 0);
    g_assert_cmpint(f->output.directory.fd, >=, 500);
    int other = open("/", O_RDONLY | O_DIRECTORY);
    g_assert_cmpint(dup2(other, f->output.directory.fd), >=, 0);
    g_assert_cmpint(write_one(f), ==, -EBADF);
    int number = f->output.directory.fd;
    tm_output_done(&f->output);
    g_assert_cmpint(fcntl(number, F_GETFD), >=, 0); /* not ours: not closed */
    close(number);
    close(other);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/output/" name, fixture, NULL, set_up, func, tear_down)
    ADD("counts", test_counts);
    ADD("named-drafts", test_named_drafts);
    ADD("skips-taken-names", test_skips_taken_names);
    ADD("one-name", test_one_name);
    ADD("failure-leaves-nothing", test_failure_leaves_nothing);
    ADD("bad-places", test_bad_places);
    ADD("slashes", test_slashes);
    ADD("directory-closed-by-program", test_directory_closed_by_program);
    return g_test_run();
}
