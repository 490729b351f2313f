// SPDX-License-Identifier: MIT
#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "format/crc32c.h"
#include "format/tms_reader.h"
#include "format/tms_writer.h"

/* The writer's system calls come through here, and go wrong as asked. */
static struct {
    int fd;               /* only this one */
    size_t most_bytes;    /* a call writes no more */
    int64_t space_bytes;  /* then ENOSPC; < 0: endless */
    unsigned interrupted; /* every n-th call; 0: none */
    unsigned calls;
} faults;

static ssize_t faulty(int fd, const void *data, size_t n_bytes, int64_t at)
{
    if (fd == faults.fd) {
        faults.calls++;
        if (faults.interrupted != 0 && faults.calls % faults.interrupted == 0) {
            errno = EINTR;
            return -1;
        }
        n_bytes = MIN(n_bytes, faults.most_bytes);
        if (faults.space_bytes >= 0) {
            n_bytes = MIN(n_bytes, (size_t)faults.space_bytes);
            faults.space_bytes -= (int64_t)n_bytes;
            if (n_bytes == 0) {
                errno = ENOSPC;
                return -1;
            }
        }
    }
    return at < 0 ? syscall(SYS_write, fd, data, n_bytes)
                  : syscall(SYS_pwrite64, fd, data, n_bytes, at);
}

ssize_t write(int fd, const void *data, size_t n_bytes)
{
    return faulty(fd, data, n_bytes, -1);
}

ssize_t pwrite(int fd, const void *data, size_t n_bytes, off_t at)
{
    return faulty(fd, data, n_bytes, at);
}

static struct tms_writer *start(uint32_t granule_shift)
{
    struct tms_writer *w = g_malloc(sizeof(*w));
    int fd = memfd_create("tms", MFD_CLOEXEC);
    memset(w, 0xa5, sizeof(*w)); /* what init leaves untouched must not matter */
    faults.fd = fd;
    faults.most_bytes = SIZE_MAX;
    faults.space_bytes = -1;
    faults.interrupted = 0;
    faults.calls = 0;
    tms_writer_init(w, fd, 42, granule_shift);
    return w;
}

static void stop(struct tms_writer *w)
{
    close(w->fd);
    g_free(w);
    faults.fd = -1;
}

/* The file as it is; to be freed. */
static uint8_t *contents(const struct tms_writer *w, size_t *ret_bytes)
{
    *ret_bytes = (size_t)lseek(w->fd, 0, SEEK_END);
    uint8_t *bytes = g_malloc(*ret_bytes);
    g_assert_cmpint(pread(w->fd, bytes, *ret_bytes, 0), ==, (ssize_t)*ret_bytes);
    return bytes;
}

/* Ends the file and opens it; to be closed. The bytes are the caller's. */
static uint8_t *end_and_open(struct tms_writer *w, struct tms_file *ret)
{
    struct tms_error error = {0};
    size_t n_bytes;
    g_assert_cmpint(tms_writer_end(w), ==, 0);
    uint8_t *bytes = contents(w, &n_bytes);
    g_assert_cmpuint(n_bytes, ==, w->offset);
    bool ok = tms_file_open_memory(ret, bytes, n_bytes, TMS_OPEN_DEFAULT, &error);
    g_assert_cmpstr(error.message, ==, "");
    g_assert_true(ok);
    return bytes;
}

static void test_bytes(void)
{
    struct tms_writer *w = start(4);
    size_t n_bytes;
    tms_writer_begin(w, TMS_FACTS);
    tms_writer_fact(w, "pid", "7");
    tms_writer_finish(w);
    g_assert_cmpint(tms_writer_end(w), ==, 0);
    uint8_t *bytes = contents(w, &n_bytes);

    g_assert_cmpuint(n_bytes, ==, 32 + 16 + 8 + 16 + 24);
    struct tms_header header;
    memcpy(&header, bytes, sizeof(header));
    g_assert_cmpmem(header.magic, 8, "\x89TMS\r\n\x1a\n", 8);
    g_assert_cmpuint(header.version, ==, 1);
    g_assert_cmpuint(header.header_bytes, ==, 32);
    g_assert_cmpuint(header.timestamp_ns, ==, 42);
    g_assert_cmphex(header.crc32c, ==, tm_crc32c(0, bytes, 24));
    struct tms_section_header section;
    memcpy(&section, bytes + 32, sizeof(section));
    g_assert_cmpuint(section.type, ==, TMS_FACTS);
    g_assert_cmpuint(section.payload_bytes, ==, 6);
    g_assert_cmphex(section.crc32c, ==, tm_crc32c(0, "\1\0\0\0pid=7\0", 10));
    g_assert_cmpmem(bytes + 48, 8, "pid=7\0\0\0", 8);
    g_free(bytes);
    stop(w);
}

static void test_facts(void)
{
    struct tms_file file;
    struct tms_writer *w = start(4);
    tms_writer_begin(w, TMS_FACTS);
    tms_writer_fact_i64(w, "least", INT64_MIN);
    tms_writer_fact_i64(w, "most", INT64_MAX);
    tms_writer_fact_i64(w, "zero", 0);
    tms_writer_fact(w, "empty", "");
    tms_writer_finish(w);
    uint8_t *bytes = end_and_open(w, &file);
    g_assert_cmpint(tms_file_fact_i64(&file, "least", 1), ==, INT64_MIN);
    g_assert_cmpint(tms_file_fact_i64(&file, "most", 1), ==, INT64_MAX);
    g_assert_cmpint(tms_file_fact_i64(&file, "zero", 1), ==, 0);
    g_assert_cmpstr(tms_file_fact(&file, "empty"), ==, "");
    tms_file_close(&file);
    g_free(bytes);
    stop(w);
}

/* Sections longer than the buffer, in pieces of every kind; their headers are patched in the file.
 */
static void test_long_sections(void)
{
    static const size_t pieces[] = {1, 1000, TMS_OUT_BYTES - 1, TMS_OUT_BYTES, TMS_OUT_BYTES + 1};
    size_t total = 3 * TMS_OUT_BYTES + 5;
    uint8_t *data = g_malloc(total);
    for (size_t i = 0; i < total; i++) {
        data[i] = (uint8_t)(i * 7 + i / 256);
    }
    for (size_t k = 0; k < G_N_ELEMENTS(pieces); k++) {
        struct tms_file file;
        struct tms_writer *w = start(4);
        for (uint32_t section = 0; section < 2; section++) {
            tms_writer_begin(w, (enum tms_section_type)(500 + section));
            for (size_t at = 0; at < total; at += pieces[k]) {
                tms_writer_bytes(w, data + at, MIN(pieces[k], total - at));
            }
            tms_writer_finish(w);
        }
        uint8_t *bytes = end_and_open(w, &file);
        g_assert_cmpuint(file.end.sections, ==, 2);
        g_assert_cmpmem(bytes + 48, total, data, total);
        tms_file_close(&file);
        g_free(bytes);
        stop(w);
    }
    g_free(data);
}

static void write_traces(struct tms_writer *w, uint32_t n)
{
    tms_writer_begin(w, TMS_NODES);
    tms_writer_bytes(w, &(struct tms_node){TMS_NO_ID, TMS_NO_ID}, sizeof(struct tms_node));
    tms_writer_finish(w);
    for (uint32_t i = 0; i < n; i++) {
        tms_writer_trace(w, &(struct tms_trace){.address = 4096 + 16ull * i, .size_bytes = i});
    }
}

static void test_short_and_interrupted_writes(void)
{
    struct tms_file file;
    struct tms_writer *w = start(4);
    faults.most_bytes = 1021;
    faults.interrupted = 3;
    write_traces(w, 100000);
    uint8_t *bytes = end_and_open(w, &file);
    g_assert_cmpuint(file.end.traces, ==, 100000);
    g_assert_cmpuint(faults.calls, >, 100);
    tms_file_close(&file);
    g_free(bytes);
    stop(w);
}

static void test_no_space(void)
{
    for (int64_t space = 0; space < 400000; space += 37501) {
        struct tms_writer *w = start(4);
        faults.space_bytes = space;
        write_traces(w, 100000);
        g_assert_cmpint(tms_writer_end(w), ==, -ENOSPC);
        unsigned calls = faults.calls;
        write_traces(w, 100000); /* the error sticks, and nothing is tried again */
        g_assert_cmpint(tms_writer_end(w), ==, -ENOSPC);
        g_assert_cmpuint(faults.calls, ==, calls);
        stop(w);
    }
}

/* A writer that was stopped leaves a file that is seen to be truncated. */
static void test_stopped_inside_section(void)
{
    struct tms_error error;
    struct tms_file file;
    size_t n_bytes;
    struct tms_writer *w = start(4);
    uint8_t *zeros = g_malloc0(TMS_OUT_BYTES);
    tms_writer_begin(w, TMS_SITES);
    tms_writer_bytes(w, zeros, TMS_OUT_BYTES);
    tms_writer_bytes(w, zeros, TMS_OUT_BYTES);
    uint8_t *bytes = contents(w, &n_bytes);
    g_assert_cmpuint(n_bytes, >, 1000);
    g_assert_false(tms_file_open_memory(&file, bytes, n_bytes, TMS_OPEN_DEFAULT, &error));
    g_assert_cmpint(error.code, ==, TMS_E_TRUNCATED);
    g_free(bytes);
    g_free(zeros);
    stop(w);
}

struct expected {
    struct tms_trace *traces;
    uint32_t n, capacity;
};

static void add(struct tms_writer *w, struct expected *e, struct tms_trace trace)
{
    tms_writer_trace(w, &trace);
    if (e->n == e->capacity) {
        e->capacity = MAX(64, 2 * e->capacity);
        e->traces = g_renew(struct tms_trace, e->traces, e->capacity);
    }
    e->traces[e->n++] = trace;
}

/* The traces as they were written, whatever groups they are in; returns the number of groups. */
static uint32_t end_and_compare(struct tms_writer *w, struct expected *e)
{
    struct tms_file file;
    struct tms_error error;
    uint8_t *bytes = end_and_open(w, &file);
    struct tms_columns c = {
        .address = g_new(uint64_t, TMS_GROUP_MAX),
        .node = g_new(uint32_t, TMS_GROUP_MAX),
        .size_bytes = g_new(uint64_t, TMS_GROUP_MAX),
        .domain = g_new(uint8_t, TMS_GROUP_MAX),
        .age = g_new(uint32_t, TMS_GROUP_MAX),
        .type = g_new(uint32_t, TMS_GROUP_MAX),
        .thread = g_new(uint32_t, TMS_GROUP_MAX),
    };
    uint32_t at = 0, n_groups = file.n_groups;
    for (uint32_t g = 0; g < n_groups; g++) {
        g_assert_true(tms_group_decode(&file, g, &c, &error));
        g_assert_true(tms_group_check(&file, g, &error));
        for (uint32_t i = 0; i < file.groups[g].head->count; i++, at++) {
            const struct tms_trace *t = &e->traces[at];
            g_assert_cmphex(c.address[i], ==, t->address);
            g_assert_cmpuint(c.size_bytes[i], ==, t->size_bytes);
            g_assert_cmpuint(c.node[i], ==, t->node);
            g_assert_cmpuint(c.domain[i], ==, t->domain);
            g_assert_cmpuint(c.age[i], ==, t->age);
            g_assert_cmpuint(c.type[i], ==, t->type);
            g_assert_cmpuint(c.thread[i], ==, t->thread);
        }
    }
    g_assert_cmpuint(at, ==, e->n);
    g_assert_cmpuint(file.end.traces, ==, e->n);
    g_free(c.address);
    g_free(c.node);
    g_free(c.size_bytes);
    g_free(c.domain);
    g_free(c.age);
    g_free(c.type);
    g_free(c.thread);
    g_free(e->traces);
    tms_file_close(&file);
    g_free(bytes);
    stop(w);
    return n_groups;
}

static struct tms_writer *start_traces(uint32_t granule_shift)
{
    struct tms_writer *w = start(granule_shift);
    uint32_t type_ids[3] = {0, 0, 0}, strings[2] = {1, 0};
    tms_writer_begin(w, TMS_STRINGS);
    tms_writer_bytes(w, strings, sizeof(strings));
    tms_writer_finish(w);
    tms_writer_begin(w, TMS_TYPES);
    tms_writer_bytes(w, type_ids, sizeof(type_ids));
    tms_writer_finish(w);
    tms_writer_begin(w, TMS_SITES);
    tms_writer_bytes(w, &(struct tms_site){.module = TMS_NO_ID}, sizeof(struct tms_site));
    tms_writer_finish(w);
    tms_writer_begin(w, TMS_NODES);
    for (uint32_t i = 0; i < 1000; i++) {
        struct tms_node node = {i - 1, i == 0 ? TMS_NO_ID : 0};
        tms_writer_bytes(w, &node, sizeof(node));
    }
    tms_writer_finish(w);
    return w;
}

static void test_full_groups(void)
{
    static const uint32_t counts[] = {1,
                                      3,
                                      4,
                                      5,
                                      255,
                                      256,
                                      257,
                                      TMS_GROUP_MAX - 1,
                                      TMS_GROUP_MAX,
                                      TMS_GROUP_MAX + 1,
                                      2 * TMS_GROUP_MAX + 77};
    GRand *rand = g_rand_new_with_seed(4);
    for (size_t k = 0; k < G_N_ELEMENTS(counts); k++) {
        struct expected e = {0};
        struct tms_writer *w = start_traces(3);
        uint64_t address = 0x7f0000000000;
        for (uint32_t i = 0; i < counts[k]; i++) {
            uint32_t r = g_rand_int(rand);
            address += 8ull * (1 + r % 3000);
            add(w, &e,
                (struct tms_trace){.address = address,
                                   .size_bytes = r >> (r % 32),
                                   .node = r % 1000,
                                   .age = (uint16_t)(r >> 16),
                                   .domain = (uint8_t)(r % 3),
                                   .type = r % 4,
                                   .thread = r});
        }
        g_assert_cmpuint(end_and_compare(w, &e), ==,
                         (counts[k] + TMS_GROUP_MAX - 1) / TMS_GROUP_MAX);
    }
    g_rand_free(rand);
}

static void test_group_splits(void)
{
    struct expected e = {0};
    struct tms_writer *w = start_traces(4);
    add(w, &e, (struct tms_trace){.address = 0x1000});
    add(w, &e, (struct tms_trace){.address = 0x1000}); /* two at one place stay together */
    add(w, &e, (struct tms_trace){.address = 0x1000 + (0xffffffffull << 4)}); /* just near enough */
    add(w, &e, (struct tms_trace){.address = 0x1000 + (0x1ffffffffull << 4)}); /* too far */
    add(w, &e, (struct tms_trace){.address = 0x2000});                         /* backwards */
    add(w, &e, (struct tms_trace){.address = 0x2008});             /* half a granule away */
    add(w, &e, (struct tms_trace){.address = 0xfffffffffffffff8}); /* the last one there is */
    add(w, &e, (struct tms_trace){.address = 0});
    g_assert_cmpuint(end_and_compare(w, &e), ==, 6);
}

static void test_wide_sizes(void)
{
    struct expected e = {0};
    struct tms_writer *w = start_traces(0);
    for (uint32_t i = 0; i < 700; i++) {
        add(w, &e, (struct tms_trace){.address = i, .size_bytes = (uint64_t)i << 30, .domain = 2});
    }
    tms_writer_flush_traces(w);
    add(w, &e, (struct tms_trace){.address = 701, .size_bytes = UINT32_MAX});
    add(w, &e, (struct tms_trace){.address = 702, .size_bytes = 0});
    tms_writer_flush_traces(w);
    add(w, &e, (struct tms_trace){.address = 703, .size_bytes = UINT64_MAX});
    add(w, &e, (struct tms_trace){.address = 704, .size_bytes = 1ull << 32});
    g_assert_cmpuint(end_and_compare(w, &e), ==, 3);
}

/* A million small blocks take no more of the file than was promised. */
static void test_bytes_per_trace(void)
{
    struct tms_writer *w = start_traces(4);
    GRand *rand = g_rand_new_with_seed(5);
    uint64_t address = 0x7f0000000000;
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t size_bytes = 16 + g_rand_int(rand) % 1000;
        tms_writer_trace(w, &(struct tms_trace){.address = address,
                                                .size_bytes = size_bytes,
                                                .node = g_rand_int(rand) % 1000,
                                                .domain = 2});
        address += 16 * (size_bytes / 16 + 1);
    }
    g_assert_cmpint(tms_writer_end(w), ==, 0);
    g_assert_cmpuint(w->offset, <, 8 * 200000);
    g_rand_free(rand);
    stop(w);
}

static void expect_misuse(struct tms_writer *w)
{
    g_assert_cmpint(tms_writer_end(w), ==, -EINVAL);
    stop(w);
}

static void test_misuse(void)
{
    struct tms_writer *w = start(TMS_GRANULE_SHIFT_MAX + 1);
    expect_misuse(w);
    w = start(4);
    tms_writer_begin(w, TMS_FACTS);
    tms_writer_begin(w, TMS_SITES);
    expect_misuse(w);
    w = start(4);
    tms_writer_begin(w, TMS_FACTS);
    expect_misuse(w);
    w = start(4);
    tms_writer_finish(w);
    expect_misuse(w);
    w = start(4);
    tms_writer_bytes(w, "", 1);
    expect_misuse(w);
    w = start(4);
    tms_writer_begin(w, TMS_SITES);
    tms_writer_fact(w, "pid", "1");
    expect_misuse(w);
    w = start(4);
    tms_writer_begin(w, TMS_SITES);
    tms_writer_trace(w, &(struct tms_trace){0});
    expect_misuse(w);
    w = start(4);
    tms_writer_trace(w, &(struct tms_trace){.domain = 3});
    expect_misuse(w);
}

int main(int argc, char **argv)
{
    faults.fd = -1;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tms-writer/bytes", test_bytes);
    g_test_add_func("/tms-writer/facts", test_facts);
    g_test_add_func("/tms-writer/long-sections", test_long_sections);
    g_test_add_func("/tms-writer/short-and-interrupted-writes", test_short_and_interrupted_writes);
    g_test_add_func("/tms-writer/no-space", test_no_space);
    g_test_add_func("/tms-writer/stopped-inside-section", test_stopped_inside_section);
    g_test_add_func("/tms-writer/full-groups", test_full_groups);
    g_test_add_func("/tms-writer/group-splits", test_group_splits);
    g_test_add_func("/tms-writer/wide-sizes", test_wide_sizes);
    g_test_add_func("/tms-writer/bytes-per-trace", test_bytes_per_trace);
    g_test_add_func("/tms-writer/misuse", test_misuse);
    return g_test_run();
}
