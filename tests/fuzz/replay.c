// SPDX-License-Identifier: MIT
/* Runs a fuzz target over the files that are named, where libFuzzer is not there to do it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void replay(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    size_t n_bytes = (size_t)ftell(file);
    uint8_t *data = malloc(n_bytes + 1);
    rewind(file);
    if (data == NULL || fread(data, 1, n_bytes, file) != n_bytes) {
        perror(path);
        exit(1);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(data, n_bytes);
    free(data);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE...\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        replay(argv[i]);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
