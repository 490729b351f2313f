// SPDX-License-Identifier: MIT
/* To be preloaded: a malloc that says "ready" and waits for a byte from standard input where it is
 * asked for 123456789 bytes. */
#include <stdlib.h>
#include <unistd.h>

void *__libc_malloc(size_t n_bytes);
void __libc_free(void *block);

__attribute__((visibility("default"))) void *malloc(size_t n_bytes)
{
    char byte;
    if (n_bytes == 123456789 && (write(1, "ready\n", 6) != 6 || read(0, &byte, 1) != 1))
        return NULL;
    return __libc_malloc(n_bytes);
}

__attribute__((visibility("default"))) void free(void *block)
{
    __libc_free(block);
}
