// SPDX-License-Identifier: MIT
/*
 * Fuzzes the reader of .tms files. The input is read as it is, and once more
 * with its checksums put right, because no random change gets past them.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "format/crc32c.h"
#include "tests/support/tms_visit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void read_all(const uint8_t *data, size_t n_bytes, int flags)
{
    struct tms_file file;
    struct tms_error error = {0};
    if (tms_file_open_memory(&file, data, n_bytes, flags, &error)) {
        uint32_t digest;
        bool ok = tms_visit(&file, &digest, &error);
        for (uint32_t i = 0; i < file.n_groups; i++) {
            tms_group_check(&file, i, &error);
        }
        tms_file_close(&file);
        if (ok) {
            return;
        }
    }
    if (error.code == TMS_E_OK || error.message[0] == '\0' || error.offset > n_bytes) {
        abort();
    }
}

static void put_checksums_right(uint8_t *data, size_t n_bytes)
{
    struct tms_header header;
    if (n_bytes < sizeof(header)) {
        return;
    }
    memcpy(&header, data, sizeof(header));
    header.crc32c = tm_crc32c(0, data, offsetof(struct tms_header, crc32c));
    memcpy(data, &header, sizeof(header));
    size_t at = header.header_bytes;
    while (at < n_bytes && n_bytes - at >= sizeof(struct tms_section_header)) {
        struct tms_section_header section;
        memcpy(&section, data + at, sizeof(section));
        if (section.payload_bytes > n_bytes - at - sizeof(section)) {
            return;
        }
        section.crc32c = tm_crc32c(0, &section.type, sizeof(section.type));
        section.crc32c =
            tm_crc32c(section.crc32c, data + at + sizeof(section), section.payload_bytes);
        memcpy(data + at, &section, sizeof(section));
        at += sizeof(section) + ((section.payload_bytes + 7) & ~7ull);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    /* A copy of exactly that size, aligned, for the address sanitizer's eyes. */
    uint8_t *copy = calloc(1, n_bytes > 0 ? n_bytes : 1);
    if (copy == NULL) {
        abort();
    }
    if (n_bytes > 0) {
        memcpy(copy, data, n_bytes);
    }
    read_all(copy, n_bytes, TMS_OPEN_DEFAULT);
    put_checksums_right(copy, n_bytes);
    read_all(copy, n_bytes, TMS_OPEN_DEFAULT);
    read_all(copy, n_bytes, TMS_OPEN_NO_CHECKSUMS);
    free(copy);
    return 0;
}
