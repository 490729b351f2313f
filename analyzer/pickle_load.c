// SPDX-License-Identifier: MIT
#include "analyzer/pickle_load.h"

#include <sys/mman.h>

#include "analyzer/error.h"

gboolean tm_pickle_looks_like(const guint8 head[8])
{
    return head[0] == 0x80 || head[0] == '(' || head[0] == 'c';
}

void *tm_pickle_load(const char *path, gsize *ret_bytes, GError **error)
{
    (void)path;
    (void)ret_bytes;
    tm_error_data(error, "pickles cannot be read yet");
    return NULL;
}

void tm_pickle_unload(void *image, gsize n_bytes)
{
    munmap(image, n_bytes);
}
