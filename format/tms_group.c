// SPDX-License-Identifier: MIT
/*
 * Decodes the columns of one group of traces. Several threads may decode
 * groups of one file at the same time: no state, no allocation.
 */
#include "format/tms_reader.h"

#include <string.h>

#include "format/svb.h"
#include "format/tms_check.h"

/* Values that are decoded at a time, so that the second look at them finds them in the nearest
 * cache. A multiple of four. */
#define CHUNK 1024u

struct column {
    const uint8_t *bytes;
    uint32_t n_bytes;
    const char *name;
};

enum column_index {
    COLUMN_ADDRESS,
    COLUMN_NODE,
    COLUMN_SIZE,
    COLUMN_DOMAIN,
    COLUMN_AGE,
    COLUMN_TYPE,
    COLUMN_THREAD,
    COLUMNS,
};

struct reading {
    const struct tms_file *file;
    struct tms_group group;
    uint32_t count;
    struct column columns[COLUMNS];
    struct tms_error *error;
};

static bool reading_init(struct reading *r, const struct tms_file *file, uint32_t index,
                         struct tms_error *error)
{
    if (index >= file->n_groups) {
        return tms_fail(error, TMS_E_CORRUPT, 0, "there is no group %u, only %u", index,
                        file->n_groups);
    }
    const struct tms_traces *head = file->groups[index].head;
    *r = (struct reading){
        .file = file,
        .group = file->groups[index],
        .count = head->count,
        .columns =
            {
                [COLUMN_ADDRESS] = {NULL, head->address_bytes, "addresses"},
                [COLUMN_NODE] = {NULL, head->node_bytes, "nodes"},
                [COLUMN_SIZE] = {NULL, head->size_bytes, "sizes"},
                [COLUMN_DOMAIN] = {NULL, head->domain_bytes, "domains"},
                [COLUMN_AGE] = {NULL, head->age_bytes, "ages"},
                [COLUMN_TYPE] = {NULL, head->type_bytes, "types"},
                [COLUMN_THREAD] = {NULL, head->thread_bytes, "threads"},
            },
        .error = error,
    };
    const uint8_t *at = r->group.columns;
    for (uint32_t i = 0; i < COLUMNS; i++) {
        r->columns[i].bytes = at;
        at += r->columns[i].n_bytes;
    }
    return true;
}

static bool column_fail(const struct reading *r, enum column_index index, const char *problem)
{
    const struct column *column = &r->columns[index];
    return tms_fail(r->error, TMS_E_CORRUPT, (uint64_t)(column->bytes - r->file->map),
                    "a group's column of %s %s", column->name, problem);
}

static bool column_open(const struct reading *r, enum column_index index, struct tm_svb_decoder *d)
{
    const struct column *column = &r->columns[index];
    return tm_svb_decoder_init(d, column->bytes, column->n_bytes, r->count) ||
           column_fail(r, index, "is too short");
}

static bool column_get(const struct reading *r, enum column_index index, struct tm_svb_decoder *d,
                       uint32_t *values, uint32_t n)
{
    return tm_svb_decoder_get(d, values, n) || column_fail(r, index, "is too short");
}

static bool column_close(const struct reading *r, enum column_index index,
                         const struct tm_svb_decoder *d)
{
    return d->data == d->end || column_fail(r, index, "is too long");
}

static uint32_t chunk_at(const struct reading *r, uint32_t first)
{
    return r->count - first < CHUNK ? r->count - first : CHUNK;
}

/* Decodes a column whose values must be at most `max`. */
static bool decode_u32(const struct reading *r, enum column_index index, uint32_t max,
                       uint32_t *values)
{
    struct tm_svb_decoder d;
    if (!column_open(r, index, &d)) {
        return false;
    }
    for (uint32_t first = 0; first < r->count; first += CHUNK) {
        uint32_t n = chunk_at(r, first);
        uint32_t *chunk = values + first;
        uint32_t greatest = 0;
        if (!column_get(r, index, &d, chunk, n)) {
            return false;
        }
        for (uint32_t i = 0; i < n; i++) {
            greatest = chunk[i] > greatest ? chunk[i] : greatest;
        }
        if (greatest > max) {
            return column_fail(r, index, "refers to what is not in the file");
        }
    }
    return column_close(r, index, &d);
}

static bool decode_address(const struct reading *r, uint64_t *addresses)
{
    struct tm_svb_decoder d;
    uint32_t deltas[CHUNK];
    uint64_t first_address = r->group.head->first_address;
    uint32_t shift = r->group.head->granule_shift;
    uint64_t granules = 0; /* below 2^48, and below 2^64 when shifted */
    if (!column_open(r, COLUMN_ADDRESS, &d)) {
        return false;
    }
    for (uint32_t first = 0; first < r->count; first += CHUNK) {
        uint32_t n = chunk_at(r, first);
        if (!column_get(r, COLUMN_ADDRESS, &d, deltas, n)) {
            return false;
        }
        if (first == 0 && deltas[0] != 0) {
            return column_fail(r, COLUMN_ADDRESS, "does not begin with 0");
        }
        for (uint32_t i = 0; i < n; i++) {
            granules += deltas[i];
            addresses[first + i] = first_address + (granules << shift);
        }
    }
    if (granules << shift > UINT64_MAX - first_address) {
        return column_fail(r, COLUMN_ADDRESS, "goes beyond 2^64");
    }
    return column_close(r, COLUMN_ADDRESS, &d);
}

/* sizes may be NULL: then only their sum is of interest. */
static bool decode_size(const struct reading *r, uint64_t *sizes, uint64_t *ret_sum)
{
    struct tm_svb_decoder d;
    uint32_t chunk[CHUNK];
    uint64_t sum = 0;
    if (r->group.head->flags & TMS_TRACES_WIDE) {
        for (uint32_t i = 0; i < r->count; i++) {
            uint64_t size;
            memcpy(&size, r->columns[COLUMN_SIZE].bytes + (size_t)i * 8, sizeof(size));
            sum += size;
            if (sizes != NULL) {
                sizes[i] = size;
            }
        }
        *ret_sum = sum;
        return true;
    }
    if (!column_open(r, COLUMN_SIZE, &d)) {
        return false;
    }
    for (uint32_t first = 0; first < r->count; first += CHUNK) {
        uint32_t n = chunk_at(r, first);
        if (!column_get(r, COLUMN_SIZE, &d, chunk, n)) {
            return false;
        }
        if (sizes != NULL) {
            for (uint32_t i = 0; i < n; i++) {
                sizes[first + i] = chunk[i];
            }
        } else {
            for (uint32_t i = 0; i < n; i++) {
                sum += chunk[i];
            }
        }
    }
    *ret_sum = sum;
    return column_close(r, COLUMN_SIZE, &d);
}

static bool decode_domain(const struct reading *r, uint8_t *domains)
{
    if (r->columns[COLUMN_DOMAIN].n_bytes == 0) {
        memset(domains, (int)r->group.head->domain, r->count);
        return true;
    }
    const uint8_t *bytes = r->columns[COLUMN_DOMAIN].bytes;
    uint8_t greatest = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        domains[i] = bytes[i];
        greatest = bytes[i] > greatest ? bytes[i] : greatest;
    }
    return greatest <= TMS_DOMAIN_OBJ || column_fail(r, COLUMN_DOMAIN, "has an unknown domain");
}

/* A column that may be left out. */
static bool decode_optional(const struct reading *r, enum column_index index, uint32_t max,
                            uint32_t missing, uint32_t *values)
{
    if (r->columns[index].n_bytes != 0) {
        return decode_u32(r, index, max, values);
    }
    for (uint32_t i = 0; i < r->count; i++) {
        values[i] = missing;
    }
    return true;
}

bool tms_group_decode(const struct tms_file *file, uint32_t group, const struct tms_columns *ret,
                      struct tms_error *error)
{
    struct reading r;
    uint64_t sum;
    if (!reading_init(&r, file, group, error)) {
        return false;
    }
    if (ret->node != NULL && file->n_nodes == 0) {
        return column_fail(&r, COLUMN_NODE, "refers to nodes, but the file has none");
    }
    return (ret->address == NULL || decode_address(&r, ret->address)) &&
           (ret->node == NULL || decode_u32(&r, COLUMN_NODE, file->n_nodes - 1, ret->node)) &&
           (ret->size_bytes == NULL || decode_size(&r, ret->size_bytes, &sum)) &&
           (ret->domain == NULL || decode_domain(&r, ret->domain)) &&
           (ret->age == NULL ||
            decode_optional(&r, COLUMN_AGE, UINT32_MAX, r.group.head->age, ret->age)) &&
           (ret->type == NULL || decode_optional(&r, COLUMN_TYPE, file->n_types, 0, ret->type)) &&
           (ret->thread == NULL || decode_optional(&r, COLUMN_THREAD, UINT32_MAX, 0, ret->thread));
}

bool tms_group_sum(const struct tms_file *file, uint32_t group, uint64_t *ret,
                   struct tms_error *error)
{
    struct reading r;
    return reading_init(&r, file, group, error) && decode_size(&r, NULL, ret);
}

bool tms_group_check(const struct tms_file *file, uint32_t group, struct tms_error *error)
{
    struct reading r;
    struct tms_section_header header;
    if (!reading_init(&r, file, group, error)) {
        return false;
    }
    memcpy(&header, (const uint8_t *)r.group.head - sizeof(header), sizeof(header));
    if (tms_section_crc(header.type, r.group.head, header.payload_bytes) != header.crc32c) {
        return tms_fail(error, TMS_E_CORRUPT,
                        (uint64_t)((const uint8_t *)r.group.head - file->map) - sizeof(header),
                        "the checksum of group %u does not match", group);
    }
    return true;
}
