// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/crc32c.h"
#include "format/tms_reader.h"
#include "tests/support/tms_sample.h"
#include "tests/support/tms_visit.h"

/* A sample in memory of exactly its size; to be freed with free(). */
static uint8_t *sample(enum tms_sample_kind kind, size_t *ret_bytes)
{
    int fd = memfd_create("tms", MFD_CLOEXEC);
    g_assert_cmpint(tms_sample_write(fd, kind), ==, 0);
    *ret_bytes = (size_t)lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc(*ret_bytes);
    g_assert_cmpint(pread(fd, bytes, *ret_bytes, 0), ==, (ssize_t)*ret_bytes);
    close(fd);
    return bytes;
}

/* Opens a copy of exactly n_bytes, for the address sanitizer's eyes, and looks at all of it. */
static bool read_copy(const uint8_t *bytes, size_t n_bytes, int flags, uint32_t *ret_digest,
                      struct tms_error *error)
{
    struct tms_file file;
    uint8_t *copy = malloc(n_bytes > 0 ? n_bytes : 1);
    memcpy(copy, bytes, n_bytes);
    memset(error, 0, sizeof(*error));
    bool ok = tms_file_open_memory(&file, copy, n_bytes, flags, error);
    if (ok) {
        ok = tms_visit(&file, ret_digest, error);
        tms_file_close(&file);
    } else {
        struct tms_file zero;
        memset(&zero, 0, sizeof(zero));
        g_assert_cmpmem(&file, sizeof(file), &zero, sizeof(zero));
    }
    g_assert_true(ok == (error->code == TMS_E_OK));
    if (!ok) {
        g_assert_cmpstr(error->message, !=, "");
        g_assert_null(strchr(error->message, '\n'));
        g_assert_cmpuint(error->offset, <=, n_bytes);
    }
    free(copy);
    return ok;
}

static void test_full(void)
{
    struct tms_error error = {0};
    struct tms_file file;
    size_t n_bytes;
    uint8_t *bytes = sample(TMS_SAMPLE_FULL, &n_bytes);
    g_assert_true(tms_file_open_memory(&file, bytes, n_bytes, TMS_OPEN_DEFAULT, &error));
    g_assert_cmpuint(file.timestamp_ns, ==, TMS_SAMPLE_TIMESTAMP_NS);
    g_assert_cmpint(tms_file_fact_i64(&file, "pid", -1), ==, 1234);
    g_assert_cmpstr(tms_file_fact(&file, "cmdline"), ==, "python app/main.py a=b");
    g_assert_null(tms_file_fact(&file, "pi"));
    g_assert_null(tms_file_fact(&file, "pid=1234"));
    g_assert_cmpint(tms_file_fact_i64(&file, "python", -7), ==, -7);
    g_assert_cmpuint(file.n_strings, ==, 12);
    struct tms_str string = tms_file_string(&file, 4);
    g_assert_cmpmem(string.bytes, string.n_bytes, "na\xc3\xafve\xed\xb3\xbf", 9);
    g_assert_cmpuint(tms_file_string(&file, 3).n_bytes, ==, 0);
    g_assert_cmpuint(tms_file_string(&file, TMS_NO_ID).n_bytes, ==, 0);
    g_assert_nonnull(tms_file_string(&file, TMS_NO_ID).bytes);
    g_assert_cmpuint(file.n_sites, ==, 4);
    g_assert_cmphex(file.sites[3].address, ==, 0x7f0000001234);
    g_assert_cmpuint(file.n_nodes, ==, 6);
    g_assert_cmpuint(file.n_stats, ==, 2);
    g_assert_cmpuint(file.stats[1].peak_bytes, ==, 1ull << 41);
    g_assert_cmpuint(file.n_metrics, ==, 3);
    g_assert_cmpfloat(file.metrics[2].value.f, ==, 0.25);
    g_assert_cmpuint(file.n_modules, ==, 1);
    g_assert_cmpuint(file.n_types, ==, 2);
    g_assert_cmpuint(file.n_groups, ==, 3);
    g_assert_cmpuint(file.end.traces, ==, TMS_SAMPLE_TRACES_COUNT);

    static uint32_t type[TMS_GROUP_MAX], thread[TMS_GROUP_MAX];
    g_assert_true(
        tms_group_decode(&file, 2, &(struct tms_columns){.type = type, .thread = thread}, &error));
    g_assert_cmpuint(type[2], ==, 2);
    g_assert_cmpuint(thread[12], ==, 70012);
    g_assert_false(tms_group_decode(&file, 3, &(struct tms_columns){0}, &error));
    tms_file_close(&file);
    tms_file_close(&file);
    free(bytes);
}

static void test_every_kind(void)
{
    for (int kind = 0; kind < TMS_SAMPLE_KINDS; kind++) {
        struct tms_error error;
        uint32_t digest;
        size_t n_bytes;
        uint8_t *bytes = sample(kind, &n_bytes);
        g_assert_true(read_copy(bytes, n_bytes, TMS_OPEN_DEFAULT, &digest, &error));
        free(bytes);
    }
}

static void test_every_truncation(void)
{
    size_t n_bytes;
    uint8_t *bytes = sample(TMS_SAMPLE_FULL, &n_bytes);
    for (size_t length = 0; length < n_bytes; length++) {
        struct tms_error error;
        uint32_t digest;
        g_assert_false(read_copy(bytes, length, TMS_OPEN_DEFAULT, &digest, &error));
        g_assert_cmpint(error.code, ==, TMS_E_TRUNCATED);
    }
    free(bytes);
}

/* An error, or what the file says without the flip. */
static void test_every_bit(void)
{
    struct tms_error error;
    uint32_t digest, expected;
    size_t n_bytes, unchanged = 0;
    uint8_t *bytes = sample(TMS_SAMPLE_FULL, &n_bytes);
    g_assert_true(read_copy(bytes, n_bytes, TMS_OPEN_DEFAULT, &expected, &error));
    for (size_t bit = 0; bit < n_bytes * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (read_copy(bytes, n_bytes, TMS_OPEN_DEFAULT, &digest, &error)) {
            g_assert_cmphex(digest, ==, expected);
            unchanged++;
        } else {
            g_assert_cmpint(error.code, ==, bit < 64 ? TMS_E_NOT_TMS : TMS_E_CORRUPT);
        }
        read_copy(bytes, n_bytes, TMS_OPEN_NO_CHECKSUMS, &digest, &error);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    g_assert_cmpuint(unchanged, ==, 32); /* the reserved field of the header */
    free(bytes);
}

static void test_unchecked_groups(void)
{
    struct tms_error error;
    struct tms_file file;
    size_t n_bytes;
    uint8_t *bytes = sample(TMS_SAMPLE_TRACES, &n_bytes);
    g_assert_true(tms_file_open_memory(&file, bytes, n_bytes, TMS_OPEN_DEFAULT, &error));
    size_t at = (size_t)(file.groups[0].columns - file.map);
    tms_file_close(&file);

    bytes[at + 40] ^= 1;
    g_assert_false(tms_file_open_memory(&file, bytes, n_bytes, TMS_OPEN_DEFAULT, &error));
    g_assert_cmpint(error.code, ==, TMS_E_CORRUPT);
    g_assert_true(tms_file_open_memory(&file, bytes, n_bytes, TMS_OPEN_NO_CHECKSUMS, &error));
    g_assert_false(tms_group_check(&file, 0, &error));
    g_assert_true(tms_group_check(&file, 1, &error));
    g_assert_false(tms_group_check(&file, 2, &error));
    tms_file_close(&file);
    free(bytes);
}

/* Files put together by hand, with checksums that are right. */

static void put_section(GByteArray *out, uint32_t type, const void *payload, size_t n_bytes)
{
    struct tms_section_header header = {.type = type, .payload_bytes = n_bytes};
    header.crc32c = tm_crc32c(tm_crc32c(0, &type, sizeof(type)), payload, n_bytes);
    g_byte_array_append(out, (const guint8 *)&header, sizeof(header));
    g_byte_array_append(out, payload, (guint)n_bytes);
    g_byte_array_append(out, (const guint8 *)"\0\0\0\0\0\0\0", -n_bytes & 7);
}

static GByteArray *put_header(uint32_t version, uint32_t header_bytes)
{
    GByteArray *out = g_byte_array_new();
    struct tms_header header = {
        .magic = TMS_MAGIC, .version = version, .header_bytes = header_bytes};
    header.crc32c = tm_crc32c(0, &header, offsetof(struct tms_header, crc32c));
    g_byte_array_append(out, (const guint8 *)&header, sizeof(header));
    return out;
}

static void put_end(GByteArray *out, uint64_t sections, uint64_t traces, uint64_t traced_bytes)
{
    struct tms_end end = {sections, traces, traced_bytes};
    put_section(out, TMS_END, &end, sizeof(end));
}

/* Reads and frees; the message must contain `part`; NULL: there must be no error. */
static void expect(GByteArray *file, enum tms_error_code code, const char *part)
{
    struct tms_error error;
    uint32_t digest;
    read_copy(file->data, file->len, TMS_OPEN_DEFAULT, &digest, &error);
    if (part == NULL) {
        g_assert_cmpstr(error.message, ==, "");
    } else if (strstr(error.message, part) == NULL) {
        g_error("\"%s\" does not say \"%s\"", error.message, part);
    }
    g_assert_cmpint(error.code, ==, code);
    g_byte_array_unref(file);
}

/* A file of one section. */
static void expect_section(uint32_t type, const void *payload, size_t n_bytes, const char *part)
{
    GByteArray *file = put_header(1, 32);
    put_section(file, type, payload, n_bytes);
    put_end(file, 1, 0, 0);
    expect(file, part == NULL ? TMS_E_OK : TMS_E_CORRUPT, part);
}

static void test_header(void)
{
    expect(put_header(2, 32), TMS_E_VERSION, "newer tm (format 2");
    expect(put_header(0, 32), TMS_E_CORRUPT, "contradicts");
    expect(put_header(1, 24), TMS_E_CORRUPT, "contradicts");
    expect(put_header(1, 36), TMS_E_CORRUPT, "contradicts");
    expect(put_header(1, 40), TMS_E_TRUNCATED, "header");
    expect(put_header(1, 0xfffffff8), TMS_E_TRUNCATED, "header");
    GByteArray *file = put_header(1, 40); /* a later version's header is longer */
    g_byte_array_append(file, (const guint8 *)"whatever", 8);
    put_end(file, 0, 0, 0);
    expect(file, TMS_E_OK, NULL);
    file = g_byte_array_new();
    g_byte_array_append(file,
                        (const guint8 *)"\x7f"
                                        "ELF whatever",
                        13);
    expect(file, TMS_E_NOT_TMS, "not a tm snapshot");
    file = g_byte_array_new();
    g_byte_array_append(file, (const guint8 *)"\x89TMX", 4);
    expect(file, TMS_E_NOT_TMS, "not a tm snapshot");
}

static void test_lengths(void)
{
    static const uint64_t lengths[] = {
        UINT64_MAX - 1, UINT64_MAX - 7, UINT64_MAX - 15, UINT64_MAX - 16, 1ull << 63, 1000, 41, 25};
    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        GByteArray *file = put_header(1, 32);
        struct tms_section_header header = {.type = TMS_NODES, .payload_bytes = lengths[i]};
        g_byte_array_append(file, (const guint8 *)&header, sizeof(header));
        put_end(file, 1, 0, 0);
        expect(file, TMS_E_CORRUPT, lengths[i] > 40 ? "leads beyond" : "checksum");
    }
    GByteArray *file = put_header(1, 32);
    put_section(file, TMS_END, "12345678", 8);
    expect(file, TMS_E_CORRUPT, "impossible length");
    file = put_header(1, 32);
    put_end(file, 0, 0, 0);
    put_end(file, 0, 0, 0);
    expect(file, TMS_E_CORRUPT, "40 bytes follow");
    file = put_header(1, 32);
    put_section(file, TMS_FACTS, "a=b", 4);
    file->data[file->len - 1] = 1;
    put_end(file, 1, 0, 0);
    expect(file, TMS_E_CORRUPT, "padding");

    expect_section(TMS_SITES, "12345678", 8, "impossible length");
    expect_section(TMS_NODES, "12345678", 7, "impossible length");
    expect_section(TMS_STATS, "12345678", 8, "impossible length");
    expect_section(TMS_METRICS, "12345678", 8, "impossible length");
    expect_section(TMS_MODULES, "12345678", 8, "impossible length");
    expect_section(TMS_TYPES, "12345678", 6, "impossible length");
    expect_section(12345, "1234567", 7, NULL);
    expect_section(0, "1234567", 7, NULL);
    for (uint32_t type = TMS_SITES; type <= TMS_TYPES; type++) {
        expect_section(type, "", 0, type == TMS_TRACES ? "no room for its head" : NULL);
    }
}

static void test_duplicates(void)
{
    for (uint32_t type = TMS_FACTS; type <= TMS_TYPES; type++) {
        if (type != TMS_TRACES) {
            GByteArray *file = put_header(1, 32);
            put_section(file, type, "\0\0\0\0", type == TMS_STRINGS ? 4 : 0);
            put_section(file, type, "\0\0\0\0", type == TMS_STRINGS ? 4 : 0);
            put_end(file, 2, 0, 0);
            expect(file, TMS_E_CORRUPT, "second section");
        }
    }
}

static void test_facts(void)
{
    expect_section(TMS_FACTS, "a=b\0c=", 7, NULL);
    expect_section(TMS_FACTS, "", 0, NULL);
    expect_section(TMS_FACTS, "a=b\0c=", 6, "not terminated");
    expect_section(TMS_FACTS, "a=b\0c", 6, "key=value");
    expect_section(TMS_FACTS, "=b", 3, "key=value");
    expect_section(TMS_FACTS, "", 1, "key=value");
}

static void test_fact_numbers(void)
{
    static const struct {
        const char *value;
        int64_t number;
    } cases[] = {
        {"0", 0},
        {"-0", 0},
        {"12", 12},
        {"-12", -12},
        {"9223372036854775807", INT64_MAX},
        {"-9223372036854775808", INT64_MIN},
        {"9223372036854775808", 77},
        {"-9223372036854775809", 77},
        {"99999999999999999999999", 77},
        {"", 77},
        {"-", 77},
        {" 1", 77},
        {"1 ", 77},
        {"+1", 77},
        {"0x1", 77},
        {"--1", 77},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct tms_file file;
        struct tms_error error;
        char fact[64];
        g_snprintf(fact, sizeof(fact), "n=%s", cases[i].value);
        GByteArray *bytes = put_header(1, 32);
        put_section(bytes, TMS_FACTS, fact, strlen(fact) + 1);
        put_end(bytes, 1, 0, 0);
        g_assert_true(tms_file_open_memory(&file, bytes->data, bytes->len, 0, &error));
        g_assert_cmpint(tms_file_fact_i64(&file, "n", 77), ==, cases[i].number);
        g_assert_cmpint(tms_file_fact_i64(&file, "m", 78), ==, 78);
        tms_file_close(&file);
        g_byte_array_unref(bytes);
    }
}

static void test_strings(void)
{
    static const struct {
        uint32_t words[4];
        size_t n_bytes;
        const char *part;
    } cases[] = {
        {{0}, 4, NULL},
        {{1, 4, 0}, 12, NULL},
        {{2, 0, 4, 0}, 16, NULL},
        {{0}, 3, "impossible length"},
        {{0}, 0, "impossible length"},
        {{2, 0}, 8, "do not fit"},
        {{0xffffffff, 0}, 8, "do not fit"},
        {{0x40000000, 0}, 8, "do not fit"},
        {{2, 4, 3, 0}, 16, "ends before it begins"},
        {{1, 5, 0}, 12, "end at byte 5 of 4"},
        {{1, 3, 0}, 12, "end at byte 3 of 4"},
        {{1, 0xffffffff, 0}, 12, "end at byte"},
        {{0, 0}, 8, "end at byte 0 of 4"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        expect_section(TMS_STRINGS, cases[i].words, cases[i].n_bytes, cases[i].part);
    }
}

/* The tables, in a file with two strings, one site and one module that are right. */
static void expect_table(uint32_t type, const void *payload, size_t n_bytes, const char *part)
{
    static const uint32_t strings[] = {2, 1, 4, 0};
    static const struct tms_site site = {.module = TMS_NO_ID};
    static const struct tms_module module = {.end = 1, .build_id = TMS_NO_ID};
    GByteArray *file = put_header(1, 32);
    uint64_t sections = 1;
    put_section(file, type, payload, n_bytes);
    if (type != TMS_STRINGS) {
        put_section(file, TMS_STRINGS, strings, sizeof(strings));
        sections++;
    }
    if (type != TMS_SITES) {
        put_section(file, TMS_SITES, &site, sizeof(site));
        sections++;
    }
    if (type != TMS_MODULES) {
        put_section(file, TMS_MODULES, &module, sizeof(module));
        sections++;
    }
    put_end(file, sections, 0, 0);
    expect(file, part == NULL ? TMS_E_OK : TMS_E_CORRUPT, part);
}

static void test_sites(void)
{
    struct tms_site site = {
        .file = 1, .function = TMS_NO_ID, .line = INT32_MIN, .module = 0, .kind = TMS_SITE_NATIVE};
    expect_table(TMS_SITES, &site, sizeof(site), NULL);
    site.file = 2;
    expect_table(TMS_SITES, &site, sizeof(site), "site 0 refers to string 2, but there are 2");
    site.file = 0;
    site.function = 2;
    expect_table(TMS_SITES, &site, sizeof(site), "string 2");
    site.function = 0;
    site.module = 1;
    expect_table(TMS_SITES, &site, sizeof(site), "module 1");
    site.module = 0;
    site.kind = 2;
    expect_table(TMS_SITES, &site, sizeof(site), "unknown kind");
    site.kind = 1u << 8;
    expect_table(TMS_SITES, &site, sizeof(site), "unknown kind");
}

static void test_nodes(void)
{
    struct tms_node nodes[3] = {{TMS_NO_ID, TMS_NO_ID}, {0, 0}, {1, 0}};
    expect_table(TMS_NODES, nodes, sizeof(nodes), NULL);
    nodes[2].parent = 2;
    expect_table(TMS_NODES, nodes, sizeof(nodes), "node 2 has the parent 2");
    nodes[2].parent = TMS_NO_ID;
    expect_table(TMS_NODES, nodes, sizeof(nodes), "not before it");
    nodes[2] = (struct tms_node){0, 1};
    expect_table(TMS_NODES, nodes, sizeof(nodes), "node 2 refers to site 1");
    nodes[2].site = TMS_NO_ID;
    expect_table(TMS_NODES, nodes, sizeof(nodes), "refers to site");
    nodes[2].site = 0;
    nodes[0].site = 0;
    expect_table(TMS_NODES, nodes, sizeof(nodes), "empty traceback");
    nodes[0] = (struct tms_node){0, TMS_NO_ID};
    expect_table(TMS_NODES, nodes, sizeof(nodes), "empty traceback");
}

static void test_tables(void)
{
    struct tms_stat stat = {.site = TMS_NO_ID};
    expect_table(TMS_STATS, &stat, sizeof(stat), NULL);
    stat.site = 1;
    expect_table(TMS_STATS, &stat, sizeof(stat), "stat 0 refers to site 1");

    struct tms_metric metric = {.name = 1, .format = TMS_METRIC_PERCENT, .value = {.f = -1e300}};
    expect_table(TMS_METRICS, &metric, sizeof(metric), NULL);
    metric.value.f = NAN;
    expect_table(TMS_METRICS, &metric, sizeof(metric), "finite");
    metric.value.f = INFINITY;
    expect_table(TMS_METRICS, &metric, sizeof(metric), "finite");
    metric.format = 3;
    expect_table(TMS_METRICS, &metric, sizeof(metric), "unknown format");
    metric = (struct tms_metric){.name = TMS_NO_ID};
    expect_table(TMS_METRICS, &metric, sizeof(metric), "metric 0 refers to string");

    struct tms_module module = {.start = 1, .end = 2, .path = 1, .build_id = 0};
    expect_table(TMS_MODULES, &module, sizeof(module), NULL);
    module.build_id = 2;
    expect_table(TMS_MODULES, &module, sizeof(module), "string 2");
    module.build_id = TMS_NO_ID;
    module.path = TMS_NO_ID;
    expect_table(TMS_MODULES, &module, sizeof(module), "refers to string");
    module.path = 0;
    module.start = 2;
    expect_table(TMS_MODULES, &module, sizeof(module), "ends before");

    uint32_t types[2] = {0, 1};
    expect_table(TMS_TYPES, types, sizeof(types), NULL);
    types[1] = 2;
    expect_table(TMS_TYPES, types, sizeof(types), "type 1 refers to string 2");
}

/* A group of four traces whose parts a test can spoil: seven columns of four values. */
struct group {
    struct tms_traces head;
    uint8_t address[5], node[5], size_bytes[5], domain[4], age[5], type[5], thread[5];
    uint8_t more[8];
} __attribute__((packed));

static struct group good_group(void)
{
    return (struct group){
        .head = {.count = 4,
                 .first_address = 0x1000,
                 .granule_shift = 4,
                 .address_bytes = 5,
                 .node_bytes = 5,
                 .size_bytes = 5,
                 .domain_bytes = 4,
                 .age_bytes = 5,
                 .type_bytes = 5,
                 .thread_bytes = 5},
        .address = {0, 0, 1, 2, 3},
        .node = {0, 0, 1, 1, 0},
        .size_bytes = {0, 10, 20, 30, 40},
        .domain = {0, 1, 2, 0},
        .age = {0, 1, 2, 3, 4},
        .type = {0, 0, 1, 0, 1},
        .thread = {0, 1, 2, 3, 4},
    };
}

static void expect_group_of(const struct group *group, size_t n_bytes, uint64_t traces,
                            uint64_t traced_bytes, const char *part)
{
    static const uint32_t types[] = {0}, strings[] = {1, 0};
    static const struct tms_site site = {.module = TMS_NO_ID};
    static const struct tms_node nodes[] = {{TMS_NO_ID, TMS_NO_ID}, {0, 0}};
    GByteArray *file = put_header(1, 32);
    put_section(file, TMS_TRACES, group, n_bytes);
    put_section(file, TMS_STRINGS, strings, sizeof(strings));
    put_section(file, TMS_SITES, &site, sizeof(site));
    put_section(file, TMS_NODES, nodes, sizeof(nodes));
    put_section(file, TMS_TYPES, types, sizeof(types));
    put_end(file, 5, traces, traced_bytes);
    expect(file, part == NULL ? TMS_E_OK : TMS_E_CORRUPT, part);
}

static void expect_group(const struct group *group, const char *part)
{
    expect_group_of(group, sizeof(*group) - sizeof(group->more), 4, 100, part);
}

static void test_group_head(void)
{
    struct group g = good_group();
    expect_group(&g, NULL);
    expect_group_of(&g, sizeof(g.head) - 1, 4, 100, "no room for its head");
    expect_group_of(&g, sizeof(g.head), 4, 100, "columns take 34 bytes");
    expect_group_of(&g, sizeof(g), 4, 100, "columns take 34 bytes");
    expect_group_of(&g, sizeof(g) - sizeof(g.more), 5, 100, "there are 4 traces");
    expect_group_of(&g, sizeof(g) - sizeof(g.more), 4, 101, "add up to 100 bytes");
    g.head.count = 0;
    expect_group(&g, "claims 0 traces");
    g.head.count = TMS_GROUP_MAX + 1;
    expect_group(&g, "claims 65537 traces");
    g = good_group();
    g.head.flags = 2;
    expect_group(&g, "unknown flags");
    g = good_group();
    g.head.granule_shift = 17;
    expect_group(&g, "granule");
    g.head.granule_shift = UINT32_MAX;
    expect_group(&g, "granule");
    g = good_group();
    g.head.domain = 3;
    expect_group(&g, "unknown domain 3");
    g = good_group();
    g.head.flags = TMS_TRACES_WIDE;
    expect_group(&g, "column of sizes has 5");
    g = good_group();
    g.head.domain_bytes = 3;
    g.head.age_bytes = 6;
    expect_group(&g, "column of domains has 3");
    g = good_group();
    g.head.address_bytes = UINT32_MAX; /* sums of 32 bits would come round to the same */
    g.head.node_bytes = 11;
    expect_group(&g, "columns take");
}

static void test_group_columns(void)
{
    struct group g = good_group();
    g.address[1] = 1;
    expect_group(&g, "does not begin with 0");
    g = good_group();
    g.head.first_address = UINT64_MAX - 95; /* the last trace is 96 behind it */
    expect_group(&g, "beyond 2^64");
    g.head.first_address--;
    expect_group(&g, NULL);
    g = good_group();
    g.node[4] = 2;
    expect_group(&g, "column of nodes refers to what is not");
    g = good_group();
    g.domain[3] = 3;
    expect_group(&g, "unknown domain");
    g = good_group();
    g.type[1] = 2;
    expect_group(&g, "column of types refers");
    g = good_group();
    g.size_bytes[0] = 1;
    expect_group(&g, "column of sizes is too short");
    g = good_group();
    g.thread[0] = 0x40;
    expect_group(&g, "column of threads is too short");
    g = good_group();
    g.head.node_bytes = 4;
    g.head.address_bytes = 6;
    expect_group(&g, "column of addresses is too long");
    g = good_group();
    g.head.address_bytes = 0;
    g.head.node_bytes = 10;
    expect_group(&g, "column of addresses is too short");
    g = good_group();
    g.head.size_bytes = 0;
    g.head.thread_bytes = 10;
    expect_group(&g, "column of sizes is too short");
}

static void test_group_without_nodes(void)
{
    struct group g = good_group();
    GByteArray *file = put_header(1, 32);
    put_section(file, TMS_TRACES, &g, sizeof(g) - sizeof(g.more));
    put_end(file, 1, 4, 100);
    expect(file, TMS_E_CORRUPT, "the file has none");
}

static void test_end(void)
{
    GByteArray *file = put_header(1, 32);
    put_end(file, 1, 0, 0);
    expect(file, TMS_E_CORRUPT, "there are 0 sections, the end section says 1");
    file = put_header(1, 32);
    put_end(file, 0, 0, 1);
    expect(file, TMS_E_CORRUPT, "add up to 0 bytes");
    file = put_header(1, 32);
    put_section(file, TMS_FACTS, "", 0);
    expect(file, TMS_E_TRUNCATED, "end section is missing");
}

/* Things in the file system that are not snapshots. */

static void expect_path(const char *path, enum tms_error_code code, int sys_errno, const char *part)
{
    struct tms_error error = {0};
    struct tms_file file;
    g_assert_false(tms_file_open(&file, path, TMS_OPEN_DEFAULT, &error));
    g_assert_cmpint(error.code, ==, code);
    g_assert_cmpint(error.sys_errno, ==, sys_errno);
    g_assert_nonnull(strstr(error.message, part));
    g_assert_false(tms_file_open(&file, path, TMS_OPEN_DEFAULT, NULL));
    tms_file_close(&file);
}

static void test_paths(void)
{
    struct tms_error error;
    struct tms_file file;
    char *folder = g_dir_make_tmp("tms-XXXXXX", NULL);
    char *path = g_build_filename(folder, "file", NULL);
    expect_path(path, TMS_E_IO, ENOENT, "No such file");
    expect_path(folder, TMS_E_IO, EISDIR, "directory");
    expect_path("/dev/zero", TMS_E_IO, EINVAL, "not a regular file");
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    expect_path(path, TMS_E_IO, EINVAL, "not a regular file");
    g_unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    expect_path(path, TMS_E_TRUNCATED, 0, "empty");
    g_assert_cmpint(tms_sample_write(fd, TMS_SAMPLE_FULL), ==, 0);
    g_assert_true(tms_file_open(&file, path, TMS_OPEN_DEFAULT, &error));
    g_assert_cmpuint(file.n_groups, ==, 3);
    tms_file_close(&file);
    g_assert_cmpint(ftruncate(fd, 100), ==, 0);
    expect_path(path, TMS_E_TRUNCATED, 0, "truncated");
    close(fd);
    g_unlink(path);
    g_rmdir(folder);
    g_free(path);
    g_free(folder);
}

static void test_unaligned_memory(void)
{
    struct tms_error error;
    struct tms_file file;
    size_t n_bytes;
    uint8_t *bytes = sample(TMS_SAMPLE_FULL, &n_bytes);
    g_assert_false(tms_file_open_memory(&file, bytes + 4, n_bytes - 4, 0, &error));
    g_assert_cmpint(error.sys_errno, ==, EINVAL);
    free(bytes);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tms-reader/full", test_full);
    g_test_add_func("/tms-reader/every-kind", test_every_kind);
    g_test_add_func("/tms-reader/every-truncation", test_every_truncation);
    g_test_add_func("/tms-reader/every-bit", test_every_bit);
    g_test_add_func("/tms-reader/unchecked-groups", test_unchecked_groups);
    g_test_add_func("/tms-reader/header", test_header);
    g_test_add_func("/tms-reader/lengths", test_lengths);
    g_test_add_func("/tms-reader/duplicates", test_duplicates);
    g_test_add_func("/tms-reader/facts", test_facts);
    g_test_add_func("/tms-reader/fact-numbers", test_fact_numbers);
    g_test_add_func("/tms-reader/strings", test_strings);
    g_test_add_func("/tms-reader/sites", test_sites);
    g_test_add_func("/tms-reader/nodes", test_nodes);
    g_test_add_func("/tms-reader/tables", test_tables);
    g_test_add_func("/tms-reader/group-head", test_group_head);
    g_test_add_func("/tms-reader/group-columns", test_group_columns);
    g_test_add_func("/tms-reader/group-without-nodes", test_group_without_nodes);
    g_test_add_func("/tms-reader/end", test_end);
    g_test_add_func("/tms-reader/paths", test_paths);
    g_test_add_func("/tms-reader/unaligned-memory", test_unaligned_memory);
    return g_test_run();
}
