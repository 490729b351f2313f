// SPDX-License-Identifier: MIT
/*
 * Writes .tms files. Runs in the target on the agent's thread, in the passive
 * reader and in tm-analyze: no malloc, no stdio, no lock, nothing of Python;
 * of the system only write and pwrite. The calling thread blocks SIGXFSZ if a
 * file size limit must not end the process (the agent blocks every signal).
 */
#include "format/tms_writer.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "format/crc32c.h"
#include "format/svb.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, ".tms is little-endian, as written here");
_Static_assert(sizeof(((struct tms_writer *)0)->column) >= TM_SVB_BYTES_MAX(TMS_GROUP_MAX),
               "a column of a full group fits");

/* No section is open. Never the type of a section. */
#define NO_SECTION 0u
/* Values that are gathered on the stack between a row and the encoder. */
#define GATHER 256u

static void fail(struct tms_writer *w, int error)
{
    if (w->error == 0) {
        w->error = error;
    }
}

/* at < 0: behind what was written last. */
static void write_all(struct tms_writer *w, const uint8_t *data, size_t n_bytes, int64_t at)
{
    while (n_bytes > 0 && w->error == 0) {
        ssize_t n = at < 0 ? write(w->fd, data, n_bytes) : pwrite(w->fd, data, n_bytes, at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            fail(w, n < 0 ? errno : EIO);
            return;
        }
        data += n;
        n_bytes -= (size_t)n;
        at = at < 0 ? at : at + n;
    }
}

static void flush(struct tms_writer *w)
{
    write_all(w, w->out, w->out_used, -1);
    w->out_used = 0;
}

/* Bytes as they are, of no section's payload. */
static void put(struct tms_writer *w, const void *data, size_t n_bytes)
{
    if (w->error != 0) {
        return;
    }
    if (n_bytes > TMS_OUT_BYTES - w->out_used) {
        flush(w);
    }
    if (n_bytes > TMS_OUT_BYTES) {
        write_all(w, data, n_bytes, -1);
    } else {
        memcpy(w->out + w->out_used, data, n_bytes);
        w->out_used += (uint32_t)n_bytes;
    }
    w->offset += n_bytes;
}

/* Replaces bytes that were put at `at`: in the buffer, or in the file. */
static void patch(struct tms_writer *w, const void *data, size_t n_bytes, uint64_t at)
{
    uint64_t flushed = w->offset - w->out_used;
    if (at >= flushed) {
        memcpy(w->out + (at - flushed), data, n_bytes);
    } else {
        write_all(w, data, n_bytes, (int64_t)at);
    }
}

void tms_writer_init(struct tms_writer *w, int fd, uint64_t timestamp_ns, uint32_t granule_shift)
{
    /* The buffers stay untouched: they are most of the struct, and their pages cost memory. */
    w->fd = fd;
    w->error = granule_shift > TMS_GRANULE_SHIFT_MAX ? EINVAL : 0;
    w->offset = 0;
    w->sections = 0;
    w->traces = 0;
    w->traced_bytes = 0;
    w->section_offset = 0;
    w->section_bytes = 0;
    w->section_type = NO_SECTION;
    w->section_crc = 0;
    w->granule_shift = granule_shift;
    w->rows = 0;
    w->out_used = 0;

    struct tms_header header = {
        .magic = TMS_MAGIC,
        .version = TMS_VERSION,
        .header_bytes = sizeof(header),
        .timestamp_ns = timestamp_ns,
    };
    header.crc32c = tm_crc32c(0, &header, offsetof(struct tms_header, crc32c));
    put(w, &header, sizeof(header));
}

void tms_writer_begin(struct tms_writer *w, enum tms_section_type type)
{
    if (w->section_type != NO_SECTION || type == NO_SECTION) {
        fail(w, EINVAL);
    }
    if (w->error != 0) {
        return;
    }
    struct tms_section_header header = {.type = type, .payload_bytes = TMS_UNFINISHED};
    w->section_offset = w->offset;
    w->section_bytes = 0;
    w->section_type = type;
    w->section_crc = tm_crc32c(0, &header.type, sizeof(header.type));
    put(w, &header, sizeof(header));
}

void tms_writer_bytes(struct tms_writer *w, const void *data, size_t n_bytes)
{
    if (w->section_type == NO_SECTION) {
        fail(w, EINVAL);
    }
    if (w->error != 0 || n_bytes == 0) {
        return;
    }
    w->section_crc = tm_crc32c(w->section_crc, data, n_bytes);
    w->section_bytes += n_bytes;
    put(w, data, n_bytes);
}

void tms_writer_finish(struct tms_writer *w)
{
    static const uint8_t zeros[8];
    if (w->section_type == NO_SECTION) {
        fail(w, EINVAL);
    }
    if (w->error != 0) {
        return;
    }
    struct tms_section_header header = {
        .type = w->section_type,
        .crc32c = w->section_crc,
        .payload_bytes = w->section_bytes,
    };
    patch(w, &header, sizeof(header), w->section_offset);
    put(w, zeros, -w->section_bytes & 7);
    w->sections++;
    w->section_type = NO_SECTION;
}

void tms_writer_fact(struct tms_writer *w, const char *key, const char *value)
{
    if (w->section_type != TMS_FACTS) {
        fail(w, EINVAL);
        return;
    }
    tms_writer_bytes(w, key, strlen(key));
    tms_writer_bytes(w, "=", 1);
    tms_writer_bytes(w, value, strlen(value) + 1);
}

void tms_writer_fact_i64(struct tms_writer *w, const char *key, int64_t value)
{
    char digits[24];
    char *at = digits + sizeof(digits) - 1;
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
    *at = '\0';
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (value < 0) {
        *--at = '-';
    }
    tms_writer_fact(w, key, at);
}

/* The values of one column in the order of the rows. */
typedef void gather_fn(const struct tms_writer *w, uint32_t first, uint32_t n, uint32_t *values);

#define GATHER_FIELD(name, field)                                                                  \
    static void name(const struct tms_writer *w, uint32_t first, uint32_t n, uint32_t *values)     \
    {                                                                                              \
        for (uint32_t i = 0; i < n; i++) {                                                         \
            values[i] = (uint32_t)w->row[first + i].field;                                         \
        }                                                                                          \
    }
GATHER_FIELD(gather_node, node)
GATHER_FIELD(gather_size, size_bytes)
GATHER_FIELD(gather_age, age)
GATHER_FIELD(gather_type, type)
GATHER_FIELD(gather_thread, thread)

static void gather_address(const struct tms_writer *w, uint32_t first, uint32_t n, uint32_t *values)
{
    uint64_t previous = w->row[first == 0 ? 0 : first - 1].address;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t address = w->row[first + i].address;
        values[i] = (uint32_t)((address - previous) >> w->granule_shift);
        previous = address;
    }
}

/* Bytes of the column in the svb layout, without writing it. */
static uint32_t svb_column_bytes(const struct tms_writer *w, gather_fn *gather)
{
    uint32_t values[GATHER];
    uint32_t n_bytes = (uint32_t)TM_SVB_CONTROL_BYTES(w->rows);
    for (uint32_t first = 0; first < w->rows; first += GATHER) {
        uint32_t n = w->rows - first < GATHER ? w->rows - first : GATHER;
        gather(w, first, n, values);
        for (uint32_t i = 0; i < n; i++) {
            n_bytes += tm_svb_value_bytes(values[i]);
        }
    }
    return n_bytes;
}

static void svb_column(struct tms_writer *w, gather_fn *gather, uint32_t n_bytes)
{
    if (n_bytes == 0) {
        return;
    }
    uint32_t values[GATHER];
    struct tm_svb_encoder encoder;
    tm_svb_encoder_init(&encoder, w->column, w->rows);
    for (uint32_t first = 0; first < w->rows; first += GATHER) {
        uint32_t n = w->rows - first < GATHER ? w->rows - first : GATHER;
        gather(w, first, n, values);
        tm_svb_encoder_put(&encoder, values, n);
    }
    tms_writer_bytes(w, w->column, n_bytes);
}

/* Sizes of which one needs more than 32 bits. */
static void wide_size_column(struct tms_writer *w)
{
    uint64_t sizes[GATHER];
    for (uint32_t first = 0; first < w->rows; first += GATHER) {
        uint32_t n = w->rows - first < GATHER ? w->rows - first : GATHER;
        for (uint32_t i = 0; i < n; i++) {
            sizes[i] = w->row[first + i].size_bytes;
        }
        tms_writer_bytes(w, sizes, n * sizeof(*sizes));
    }
}

static void domain_column(struct tms_writer *w)
{
    for (uint32_t i = 0; i < w->rows; i++) {
        w->column[i] = w->row[i].domain;
    }
    tms_writer_bytes(w, w->column, w->rows);
}

/* Says which columns the collected rows need and how long they are. */
static void describe_group(const struct tms_writer *w, struct tms_traces *ret)
{
    const struct tms_trace *row = w->row;
    uint64_t sizes = 0;
    uint32_t types = 0, threads = 0, domains = 0, ages = 0;
    for (uint32_t i = 0; i < w->rows; i++) {
        sizes |= row[i].size_bytes;
        types |= row[i].type;
        threads |= row[i].thread;
        domains |= row[i].domain ^ row[0].domain;
        ages |= row[i].age ^ row[0].age;
    }
    bool wide = sizes > UINT32_MAX;
    *ret = (struct tms_traces){
        .count = w->rows,
        .flags = wide ? TMS_TRACES_WIDE : 0,
        .first_address = row[0].address,
        .granule_shift = w->granule_shift,
        .address_bytes = svb_column_bytes(w, gather_address),
        .node_bytes = svb_column_bytes(w, gather_node),
        .size_bytes = wide ? w->rows * 8 : svb_column_bytes(w, gather_size),
        .domain_bytes = domains != 0 ? w->rows : 0,
        .age_bytes = ages != 0 ? svb_column_bytes(w, gather_age) : 0,
        .type_bytes = types != 0 ? svb_column_bytes(w, gather_type) : 0,
        .thread_bytes = threads != 0 ? svb_column_bytes(w, gather_thread) : 0,
        .domain = domains != 0 ? 0 : row[0].domain,
        .age = ages != 0 ? 0 : row[0].age,
    };
}

void tms_writer_flush_traces(struct tms_writer *w)
{
    if (w->rows == 0 || w->error != 0) {
        return;
    }
    struct tms_traces head;
    describe_group(w, &head);
    tms_writer_begin(w, TMS_TRACES);
    tms_writer_bytes(w, &head, sizeof(head));
    svb_column(w, gather_address, head.address_bytes);
    svb_column(w, gather_node, head.node_bytes);
    if (head.flags & TMS_TRACES_WIDE) {
        wide_size_column(w);
    } else {
        svb_column(w, gather_size, head.size_bytes);
    }
    if (head.domain_bytes != 0) {
        domain_column(w);
    }
    svb_column(w, gather_age, head.age_bytes);
    svb_column(w, gather_type, head.type_bytes);
    svb_column(w, gather_thread, head.thread_bytes);
    tms_writer_finish(w);
    w->rows = 0;
}

/* Whether the trace can stand behind the last one of the group that is being collected. */
static bool follows(const struct tms_writer *w, const struct tms_trace *trace)
{
    uint64_t previous = w->row[w->rows - 1].address;
    uint64_t distance = trace->address - previous;
    return trace->address >= previous && distance >> w->granule_shift <= UINT32_MAX &&
           (distance & ((1ull << w->granule_shift) - 1)) == 0;
}

void tms_writer_trace(struct tms_writer *w, const struct tms_trace *trace)
{
    if (w->section_type != NO_SECTION || trace->domain > TMS_DOMAIN_OBJ) {
        fail(w, EINVAL);
    }
    if (w->error != 0) {
        return;
    }
    if (w->rows == TMS_GROUP_MAX || (w->rows > 0 && !follows(w, trace))) {
        tms_writer_flush_traces(w);
    }
    w->row[w->rows++] = *trace;
    w->traces++;
    w->traced_bytes += trace->size_bytes;
}

int tms_writer_end(struct tms_writer *w)
{
    tms_writer_flush_traces(w);
    struct tms_end end = {
        .sections = w->sections,
        .traces = w->traces,
        .traced_bytes = w->traced_bytes,
    };
    tms_writer_begin(w, TMS_END);
    tms_writer_bytes(w, &end, sizeof(end));
    tms_writer_finish(w);
    flush(w);
    return -w->error;
}
