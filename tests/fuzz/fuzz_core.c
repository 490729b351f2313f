// SPDX-License-Identifier: MIT
/* A core file made of anything, through the passive reader: no crash, no hang, and where it says
 * that it wrote a snapshot, one that the reader of snapshots takes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "format/tms_reader.h"
#include "inspect/extract.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct tm_extract_result result;
    g_autoptr(GBytes) bytes = g_bytes_new(data, n_bytes);
    g_autoptr(GError) error = NULL;
    g_autoptr(tm_target) target = tm_target_core_bytes(bytes, "input", &error);
    if (target == NULL)
        return 0;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd >= 0 && tm_extract(target, fd, &result, &error)) {
        char path[64];
        struct tms_file file;
        struct tms_error reason;
        g_snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (!tms_file_open(&file, path, 0, &reason)) {
            fprintf(stderr, "%s (at byte %llu)\n", reason.message,
                    (unsigned long long)reason.offset);
            abort();
        }
        tms_file_close(&file);
    }
    close(fd);
    return 0;
}
