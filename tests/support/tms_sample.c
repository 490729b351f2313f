// SPDX-License-Identifier: MIT
#include "tests/support/tms_sample.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "format/tms_writer.h"

static const char *const strings[] = {
    "app/main.py",
    "leak",
    "Cache.fill",
    "",
    "na\xc3\xafve\xed\xb3\xbf",
    "/usr/lib/libpython3.so",
    "0123abcd",
    "dict",
    "traced.size",
    "gc.objects",
    "module.fragmentation",
    "str",
};
#define N_STRINGS ((uint32_t)(sizeof(strings) / sizeof(*strings)))

static void section(struct tms_writer *w, enum tms_section_type type, const void *data,
                    size_t n_bytes)
{
    tms_writer_begin(w, type);
    tms_writer_bytes(w, data, n_bytes);
    tms_writer_finish(w);
}

static void write_facts(struct tms_writer *w, enum tms_sample_kind kind)
{
    tms_writer_begin(w, TMS_FACTS);
    tms_writer_fact_i64(w, "pid", 1234);
    tms_writer_fact(w, "python", "3.11.7");
    tms_writer_fact_i64(w, "traceback_limit", 16);
    tms_writer_fact_i64(w, "traces", kind != TMS_SAMPLE_STATS);
    tms_writer_fact(w, "cmdline", "python app/main.py a=b");
    tms_writer_finish(w);
}

static void write_strings(struct tms_writer *w)
{
    uint32_t count = N_STRINGS, end = 0;
    tms_writer_begin(w, TMS_STRINGS);
    tms_writer_bytes(w, &count, sizeof(count));
    for (uint32_t i = 0; i < N_STRINGS; i++) {
        end += (uint32_t)strlen(strings[i]);
        tms_writer_bytes(w, &end, sizeof(end));
    }
    for (uint32_t i = 0; i < N_STRINGS; i++) {
        tms_writer_bytes(w, strings[i], strlen(strings[i]));
    }
    tms_writer_finish(w);
}

static void write_sites_and_modules(struct tms_writer *w)
{
    static const struct tms_site sites[] = {
        {.file = 0, .function = 1, .line = 10, .first_line = 8, .module = TMS_NO_ID},
        {.file = 0, .function = 2, .line = 44, .first_line = 40, .module = TMS_NO_ID},
        {.file = TMS_NO_ID, .function = TMS_NO_ID, .line = -1, .module = TMS_NO_ID},
        {.file = 5,
         .function = TMS_NO_ID,
         .kind = TMS_SITE_NATIVE,
         .address = 0x7f0000001234,
         .module = 0},
    };
    static const struct tms_module modules[] = {
        {.start = 0x7f0000000000,
         .end = 0x7f0000400000,
         .bias = 0x7f0000000000,
         .path = 5,
         .build_id = 6},
    };
    section(w, TMS_SITES, sites, sizeof(sites));
    section(w, TMS_MODULES, modules, sizeof(modules));
}

static void write_nodes(struct tms_writer *w)
{
    static const struct tms_node nodes[] = {
        {TMS_NO_ID, TMS_NO_ID}, {0, 0}, {1, 1}, {1, 2}, {3, 3}, {0, 1},
    };
    section(w, TMS_NODES, nodes, sizeof(nodes));
}

static void write_tables(struct tms_writer *w)
{
    static const struct tms_stat stats[] = {
        {.site = TMS_NO_ID,
         .live_bytes = 64,
         .live_blocks = 1,
         .total_blocks = 5,
         .peak_bytes = 128},
        {.site = 1,
         .live_bytes = 1ull << 40,
         .live_blocks = 22,
         .total_blocks = 900,
         .peak_bytes = 1ull << 41},
    };
    static const struct tms_metric metrics[] = {
        {.name = 8, .format = TMS_METRIC_SIZE, .value = {.i = 123456}},
        {.name = 9, .format = TMS_METRIC_INT, .value = {.i = -1}},
        {.name = 10, .format = TMS_METRIC_PERCENT, .value = {.f = 0.25}},
    };
    static const uint32_t types[] = {7, 11};
    section(w, TMS_STATS, stats, sizeof(stats));
    section(w, TMS_METRICS, metrics, sizeof(metrics));
    section(w, TMS_TYPES, types, sizeof(types));
}

static void write_plain_traces(struct tms_writer *w)
{
    uint64_t address = 0x555500000010;
    for (uint32_t i = 0; i < 9; i++) {
        tms_writer_trace(w, &(struct tms_trace){.address = address,
                                                .size_bytes = 100 * i + 1,
                                                .node = i % 6,
                                                .domain = TMS_DOMAIN_OBJ});
        address += 16u << (i * 3);
    }
    /* A group of its own, because it is not a whole number of granules away. */
    tms_writer_trace(w, &(struct tms_trace){.address = address + 8, .size_bytes = 5ull << 32});
}

static void write_rich_traces(struct tms_writer *w)
{
    for (uint32_t i = 0; i < TMS_SAMPLE_TRACES_COUNT - 10; i++) {
        tms_writer_trace(w, &(struct tms_trace){.address = 0x7f1200000000 + 64 * i,
                                                .size_bytes = 1u << (2 * i),
                                                .node = (i + 1) % 6,
                                                .age = (uint16_t)(i * 50),
                                                .domain = (uint8_t)(i % 3),
                                                .type = i % 3,
                                                .thread = 70000 + i});
    }
}

int tms_sample_write(int fd, enum tms_sample_kind kind)
{
    static const char unknown[] = "a section of a later version";
    struct tms_writer *w = malloc(sizeof(*w));
    if (w == NULL) {
        return -ENOMEM;
    }
    tms_writer_init(w, fd, TMS_SAMPLE_TIMESTAMP_NS, 4);
    if (kind != TMS_SAMPLE_EMPTY) {
        write_facts(w, kind);
        write_strings(w);
        write_sites_and_modules(w);
    }
    if (kind == TMS_SAMPLE_STATS || kind == TMS_SAMPLE_FULL) {
        write_tables(w);
    }
    if (kind == TMS_SAMPLE_FULL) {
        section(w, (enum tms_section_type)1000, unknown, sizeof(unknown));
    }
    if (kind == TMS_SAMPLE_TRACES || kind == TMS_SAMPLE_FULL) {
        write_plain_traces(w);
        if (kind == TMS_SAMPLE_FULL) {
            write_rich_traces(w);
        }
        tms_writer_flush_traces(w);
        write_nodes(w);
    }
    int result = tms_writer_end(w);
    free(w);
    return result;
}
