// SPDX-License-Identifier: MIT
/*
 * Opens .tms files: maps the file, locates its sections, checks what they say.
 * Any thread. libc only, and only what glibc 2.17 has, because the payload's
 * Python module links it. A file that is cut short by somebody else while it is
 * open raises SIGBUS, as with any mapping: snapshots are renamed into place and
 * never rewritten.
 */
#include "format/tms_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "format/crc32c.h"
#include "format/tms_check.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "sections are borrowed from the mapping");

/* A section of the file that is being opened. */
struct section {
    uint64_t offset; /* of its header */
    struct tms_section_header header;
    const uint8_t *payload;
};

struct opening {
    struct tms_file *file;
    struct tms_error *error;
    int flags;
    bool ends_well; /* the last bytes are a valid end section: nothing is missing */
    uint32_t seen;  /* bit by section type */
    uint64_t sections;
    uint64_t traces;
    uint32_t groups_capacity;
};

static const char *magic_bytes(void)
{
    return TMS_MAGIC;
}

static bool read_header(struct opening *o, uint64_t *ret_sections_offset)
{
    const struct tms_file *file = o->file;
    struct tms_header header;
    size_t magic_there = file->map_bytes < 8 ? file->map_bytes : 8;
    if (file->map_bytes == 0) {
        return tms_fail(o->error, TMS_E_TRUNCATED, 0, "the file is empty");
    }
    if (memcmp(file->map, magic_bytes(), magic_there) != 0) {
        return tms_fail(o->error, TMS_E_NOT_TMS, 0, "not a tm snapshot");
    }
    if (file->map_bytes < sizeof(header)) {
        return tms_fail(o->error, TMS_E_TRUNCATED, file->map_bytes,
                        "truncated: the file ends in its header");
    }
    memcpy(&header, file->map, sizeof(header));
    if (tm_crc32c(0, &header, offsetof(struct tms_header, crc32c)) != header.crc32c) {
        return tms_fail(o->error, TMS_E_CORRUPT, 0, "the checksum of the header does not match");
    }
    if (header.version > TMS_VERSION) {
        return tms_fail(o->error, TMS_E_VERSION, 0,
                        "written by a newer tm (format %u, this one reads up to %u)",
                        header.version, TMS_VERSION);
    }
    if (header.version == 0 || header.header_bytes < sizeof(header) ||
        header.header_bytes % 8 != 0) {
        return tms_fail(o->error, TMS_E_CORRUPT, 0, "the header contradicts itself");
    }
    o->file->timestamp_ns = header.timestamp_ns;
    *ret_sections_offset = header.header_bytes;
    return true;
}

/* Whether the file's last bytes are an end section. A length that then leads out of the file is
 * wrong; in any other file it is more likely that the end is missing. */
static bool ends_well(const struct tms_file *file)
{
    struct tms_section_header header;
    size_t tail_bytes = sizeof(header) + sizeof(struct tms_end);
    if (file->map_bytes < tail_bytes) {
        return false;
    }
    const uint8_t *tail = file->map + file->map_bytes - tail_bytes;
    memcpy(&header, tail, sizeof(header));
    return header.type == TMS_END && header.payload_bytes == sizeof(struct tms_end) &&
           tms_section_crc(TMS_END, tail + sizeof(header), sizeof(struct tms_end)) == header.crc32c;
}

static bool fail_short(const struct opening *o, uint64_t offset, const char *where)
{
    if (o->ends_well) {
        return tms_fail(o->error, TMS_E_CORRUPT, offset, "%s leads beyond the file's end", where);
    }
    return tms_fail(o->error, TMS_E_TRUNCATED, offset, "truncated: the file ends in %s", where);
}

static bool fail_length(const struct opening *o, const struct section *s)
{
    return tms_fail(o->error, TMS_E_CORRUPT, s->offset,
                    "the section \"%s\" has an impossible length (%llu bytes)",
                    tms_section_name(s->header.type), (unsigned long long)s->header.payload_bytes);
}

/* Locates the section whose header is at `offset`, and checks its length and checksum. */
static bool read_section(const struct opening *o, uint64_t offset, struct section *ret)
{
    const struct tms_file *file = o->file;
    uint64_t rest_bytes = file->map_bytes - offset;
    if (rest_bytes == 0) {
        return tms_fail(o->error, TMS_E_TRUNCATED, offset, "truncated: the end section is missing");
    }
    if (rest_bytes < sizeof(ret->header)) {
        return fail_short(o, offset, "a section's header");
    }
    ret->offset = offset;
    ret->payload = file->map + offset + sizeof(ret->header);
    memcpy(&ret->header, file->map + offset, sizeof(ret->header));
    rest_bytes -= sizeof(ret->header);

    const char *name = tms_section_name(ret->header.type);
    uint64_t payload_bytes = ret->header.payload_bytes;
    if (payload_bytes == TMS_UNFINISHED) {
        return tms_fail(o->error, TMS_E_TRUNCATED, offset,
                        "truncated: the writer was stopped inside the section \"%s\"", name);
    }
    uint64_t padding_bytes = -payload_bytes & 7;
    if (ret->header.type == TMS_END && payload_bytes != sizeof(struct tms_end)) {
        return fail_length(o, ret);
    }
    if (payload_bytes > rest_bytes || padding_bytes > rest_bytes - payload_bytes) {
        char where[48] = "the section \"";
        strcat(strcat(where, name), "\"");
        return fail_short(o, offset, where);
    }
    if (!(ret->header.type == TMS_TRACES && (o->flags & TMS_OPEN_NO_CHECKSUMS)) &&
        tms_section_crc(ret->header.type, ret->payload, payload_bytes) != ret->header.crc32c) {
        return tms_fail(o->error, TMS_E_CORRUPT, offset,
                        "the checksum of the section \"%s\" does not match", name);
    }
    for (uint64_t i = 0; i < padding_bytes; i++) {
        if (ret->payload[payload_bytes + i] != 0) {
            return tms_fail(o->error, TMS_E_CORRUPT, offset,
                            "the padding of the section \"%s\" is not zero", name);
        }
    }
    return true;
}

/* Elements of a section that is an array; false where the length does not fit. */
static bool count_elements(const struct opening *o, const struct section *s, size_t element_bytes,
                           uint32_t *ret)
{
    uint64_t count = s->header.payload_bytes / element_bytes;
    /* The greatest id means "none", so one less is the most that ids can tell apart. */
    if (s->header.payload_bytes % element_bytes != 0 || count >= TMS_NO_ID) {
        return fail_length(o, s);
    }
    *ret = (uint32_t)count;
    return true;
}

static bool read_facts(const struct opening *o, const struct section *s)
{
    const char *facts = (const char *)s->payload;
    uint64_t n_bytes = s->header.payload_bytes;
    if (n_bytes > 0 && facts[n_bytes - 1] != '\0') {
        return tms_fail(o->error, TMS_E_CORRUPT, s->offset, "the last fact is not terminated");
    }
    for (const char *fact = facts; fact < facts + n_bytes; fact += strlen(fact) + 1) {
        const char *equals = strchr(fact, '=');
        if (equals == NULL || equals == fact) {
            return tms_fail(o->error, TMS_E_CORRUPT,
                            (uint64_t)((const uint8_t *)fact - o->file->map),
                            "a fact is not of the form key=value");
        }
    }
    o->file->facts = facts;
    o->file->facts_bytes = n_bytes;
    return true;
}

static bool read_strings(const struct opening *o, const struct section *s)
{
    struct tms_file *file = o->file;
    uint64_t n_bytes = s->header.payload_bytes;
    uint32_t count;
    if (n_bytes < sizeof(count)) {
        return fail_length(o, s);
    }
    memcpy(&count, s->payload, sizeof(count));
    n_bytes -= sizeof(count);
    if (count == TMS_NO_ID || n_bytes / sizeof(uint32_t) < count) {
        return tms_fail(o->error, TMS_E_CORRUPT, s->offset,
                        "%u strings do not fit into their section", count);
    }
    const uint32_t *ends = (const uint32_t *)(s->payload + sizeof(count));
    n_bytes -= (uint64_t)count * sizeof(uint32_t);
    uint32_t previous = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (ends[i] < previous) {
            return tms_fail(o->error, TMS_E_CORRUPT,
                            (uint64_t)((const uint8_t *)&ends[i] - file->map),
                            "string %u ends before it begins", i);
        }
        previous = ends[i];
    }
    if (previous != n_bytes) {
        return tms_fail(o->error, TMS_E_CORRUPT, s->offset, "the strings end at byte %u of %llu",
                        previous, (unsigned long long)n_bytes);
    }
    file->n_strings = count;
    file->string_ends = ends;
    file->string_bytes = (const char *)(ends + count);
    return true;
}

static bool read_group(struct opening *o, const struct section *s)
{
    struct tms_file *file = o->file;
    const struct tms_traces *head = (const struct tms_traces *)s->payload;
    if (s->header.payload_bytes < sizeof(*head)) {
        return tms_fail(o->error, TMS_E_CORRUPT, s->offset,
                        "a group of %llu bytes has no room for its head",
                        (unsigned long long)s->header.payload_bytes);
    }
    if (!tms_check_group(file, head, s->header.payload_bytes, o->error)) {
        return false;
    }
    if (file->n_groups == o->groups_capacity) {
        /* Cannot overflow: each group takes more of the file than of this array. */
        uint32_t capacity = o->groups_capacity == 0 ? 64 : o->groups_capacity * 2;
        struct tms_group *groups = capacity > o->groups_capacity
                                       ? realloc(file->groups, (size_t)capacity * sizeof(*groups))
                                       : NULL;
        if (groups == NULL) {
            return tms_fail(o->error, TMS_E_MEMORY, s->offset, "out of memory");
        }
        file->groups = groups;
        o->groups_capacity = capacity;
    }
    file->groups[file->n_groups++] = (struct tms_group){head, (const uint8_t *)(head + 1)};
    o->traces += head->count;
    return true;
}

/* Keeps what the section holds. */
static bool read_payload(struct opening *o, const struct section *s)
{
    struct tms_file *file = o->file;
    uint32_t type = s->header.type;
    if (type >= TMS_FACTS && type <= TMS_TYPES && type != TMS_TRACES) {
        if (o->seen & 1u << type) {
            return tms_fail(o->error, TMS_E_CORRUPT, s->offset, "there is a second section \"%s\"",
                            tms_section_name(type));
        }
        o->seen |= 1u << type;
    }
    switch (type) {
    case TMS_FACTS:
        return read_facts(o, s);
    case TMS_STRINGS:
        return read_strings(o, s);
    case TMS_SITES:
        file->sites = (const struct tms_site *)s->payload;
        return count_elements(o, s, sizeof(*file->sites), &file->n_sites);
    case TMS_NODES:
        file->nodes = (const struct tms_node *)s->payload;
        return count_elements(o, s, sizeof(*file->nodes), &file->n_nodes);
    case TMS_TRACES:
        return read_group(o, s);
    case TMS_STATS:
        file->stats = (const struct tms_stat *)s->payload;
        return count_elements(o, s, sizeof(*file->stats), &file->n_stats);
    case TMS_METRICS:
        file->metrics = (const struct tms_metric *)s->payload;
        return count_elements(o, s, sizeof(*file->metrics), &file->n_metrics);
    case TMS_MODULES:
        file->modules = (const struct tms_module *)s->payload;
        return count_elements(o, s, sizeof(*file->modules), &file->n_modules);
    case TMS_TYPES:
        file->types = (const uint32_t *)s->payload;
        return count_elements(o, s, sizeof(*file->types), &file->n_types);
    default:
        return true; /* of a later version: skipped */
    }
}

static bool read_end(struct opening *o, const struct section *s)
{
    struct tms_file *file = o->file;
    uint64_t end_offset = s->offset + sizeof(s->header) + sizeof(file->end);
    memcpy(&file->end, s->payload, sizeof(file->end));
    if (end_offset != file->map_bytes) {
        return tms_fail(o->error, TMS_E_CORRUPT, end_offset, "%llu bytes follow the end section",
                        (unsigned long long)(file->map_bytes - end_offset));
    }
    if (file->end.sections != o->sections) {
        return tms_fail(o->error, TMS_E_CORRUPT, s->offset,
                        "there are %llu sections, the end section says %llu",
                        (unsigned long long)o->sections, (unsigned long long)file->end.sections);
    }
    if (file->end.traces != o->traces) {
        return tms_fail(o->error, TMS_E_CORRUPT, s->offset,
                        "there are %llu traces, the end section says %llu",
                        (unsigned long long)o->traces, (unsigned long long)file->end.traces);
    }
    return true;
}

/* Whether the sizes of all traces add up to what the end section says. */
static bool check_traced_bytes(const struct opening *o)
{
    const struct tms_file *file = o->file;
    uint64_t sum = 0;
    if (o->flags & TMS_OPEN_NO_CHECKSUMS) {
        return true;
    }
    for (uint32_t i = 0; i < file->n_groups; i++) {
        uint64_t group_sum;
        if (!tms_group_sum(file, i, &group_sum, o->error)) {
            return false;
        }
        sum += group_sum;
    }
    if (sum != file->end.traced_bytes) {
        return tms_fail(o->error, TMS_E_CORRUPT, file->map_bytes - sizeof(struct tms_end),
                        "the sizes add up to %llu bytes, the end section says %llu",
                        (unsigned long long)sum, (unsigned long long)file->end.traced_bytes);
    }
    return true;
}

/* file->map is set. */
static bool read_file(struct tms_file *file, int flags, struct tms_error *error)
{
    struct opening o = {
        .file = file,
        .error = error,
        .flags = flags,
        .ends_well = ends_well(file),
    };
    uint64_t offset;
    if (!read_header(&o, &offset)) {
        return false;
    }
    if (offset > file->map_bytes) {
        return fail_short(&o, 0, "the header");
    }
    for (;;) {
        struct section section;
        if (!read_section(&o, offset, &section)) {
            return false;
        }
        if (section.header.type == TMS_END) {
            return read_end(&o, &section) && tms_check_contents(file, error) &&
                   check_traced_bytes(&o);
        }
        if (!read_payload(&o, &section)) {
            return false;
        }
        o.sections++;
        offset += sizeof(section.header) + ((section.header.payload_bytes + 7) & ~7ull);
    }
}

/* Not fstat: building on a new glibc would bind it to a symbol that old ones do not have. On the
 * 64-bit architectures that this reader is for, libc's struct is the kernel's. */
static int status_of(int fd, struct stat *ret)
{
#ifdef __x86_64__
    return (int)syscall(SYS_fstat, fd, ret);
#else
    return fstat(fd, ret);
#endif
}

static bool fail_io(struct tms_error *error, int sys_errno, const char *what)
{
    tms_error_set(error, TMS_E_IO, 0, "%s", what);
    if (error != NULL) {
        error->sys_errno = sys_errno;
    }
    return false;
}

static bool fail_errno(struct tms_error *error, const char *what)
{
    int sys_errno = errno;
    tms_error_set(error, TMS_E_IO, 0, "%s: %m", what);
    if (error != NULL) {
        error->sys_errno = sys_errno;
    }
    return false;
}

static bool map_file(struct tms_file *file, int fd, struct tms_error *error)
{
    struct stat status;
    if (status_of(fd, &status) != 0) {
        return fail_errno(error, "cannot be examined");
    }
    if (S_ISDIR(status.st_mode)) {
        return fail_io(error, EISDIR, "a directory, not a file");
    }
    if (!S_ISREG(status.st_mode)) {
        return fail_io(error, EINVAL, "not a regular file");
    }
    if (status.st_size == 0) {
        return tms_fail(error, TMS_E_TRUNCATED, 0, "the file is empty");
    }
    /* All of it is about to be read: one call instead of a fault every few pages. */
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (map == MAP_FAILED) {
        return fail_errno(error, "cannot be mapped");
    }
    file->map = map;
    file->map_bytes = (size_t)status.st_size;
    file->mapped = true;
    return true;
}

bool tms_file_open(struct tms_file *file, const char *path, int flags, struct tms_error *error)
{
    memset(file, 0, sizeof(*file));
    /* O_NONBLOCK: a FIFO without a writer must not stop us before we see that it is one. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return fail_errno(error, "cannot be opened");
    }
    bool ok = map_file(file, fd, error);
    close(fd);
    if (!ok || !read_file(file, flags, error)) {
        tms_file_close(file);
        return false;
    }
    return true;
}

bool tms_file_open_memory(struct tms_file *file, const void *data, size_t n_bytes, int flags,
                          struct tms_error *error)
{
    memset(file, 0, sizeof(*file));
    if ((uintptr_t)data % 8 != 0) {
        return fail_io(error, EINVAL, "the memory is not aligned to 8 bytes");
    }
    file->map = data;
    file->map_bytes = n_bytes;
    if (!read_file(file, flags, error)) {
        tms_file_close(file);
        return false;
    }
    return true;
}

void tms_file_close(struct tms_file *file)
{
    free(file->groups);
    if (file->mapped) {
        munmap((void *)(uintptr_t)file->map, file->map_bytes);
    }
    memset(file, 0, sizeof(*file));
}

const char *tms_file_fact(const struct tms_file *file, const char *key)
{
    if (file->facts == NULL) {
        return NULL;
    }
    size_t key_bytes = strlen(key);
    const char *end = file->facts + file->facts_bytes;
    for (const char *fact = file->facts; fact < end; fact += strlen(fact) + 1) {
        if (strncmp(fact, key, key_bytes) == 0 && fact[key_bytes] == '=') {
            return fact + key_bytes + 1;
        }
    }
    return NULL;
}

int64_t tms_file_fact_i64(const struct tms_file *file, const char *key, int64_t missing)
{
    const char *at = tms_file_fact(file, key);
    if (at == NULL) {
        return missing;
    }
    bool negative = *at == '-';
    at += negative;
    if (*at == '\0') {
        return missing;
    }
    /* By hand: strtoll accepts blanks, and newer headers bind it to a newer symbol. Counts
     * downwards, where there is one number more. */
    int64_t value = 0;
    for (; *at != '\0'; at++) {
        if (*at < '0' || *at > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_sub_overflow(value, *at - '0', &value)) {
            return missing;
        }
    }
    if (!negative && value == INT64_MIN) {
        return missing;
    }
    return negative ? value : -value;
}

struct tms_str tms_file_string(const struct tms_file *file, uint32_t id)
{
    if (id >= file->n_strings) {
        return (struct tms_str){"", 0};
    }
    uint32_t begin = id == 0 ? 0 : file->string_ends[id - 1];
    return (struct tms_str){file->string_bytes + begin, file->string_ends[id] - begin};
}
