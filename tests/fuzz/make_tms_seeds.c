// SPDX-License-Identifier: MIT
/* Writes the seeds of the .tms fuzzer into a folder: run it again when the format changes. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/tms_sample.h"

int main(int argc, char **argv)
{
    static const char *const names[TMS_SAMPLE_KINDS] = {"empty", "stats", "traces", "full"};
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    for (int kind = 0; kind < TMS_SAMPLE_KINDS; kind++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", argv[1], names[kind]);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        int result = fd < 0 ? -1 : tms_sample_write(fd, (enum tms_sample_kind)kind);
        if (result != 0 || close(fd) != 0) {
            perror(path);
            return 1;
        }
    }
    return 0;
}
