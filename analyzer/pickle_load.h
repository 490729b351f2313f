// SPDX-License-Identifier: MIT
/* Pickles of tracemalloc.Snapshot as snapshots: translated into a .tms image in memory. */
#pragma once

#include <glib.h>
#include <sys/stat.h>

/* Whether a file that begins so can be a pickle. */
gboolean tm_pickle_looks_like(const guint8 head[8]);
/* The image, 8-byte aligned, or NULL. Nothing of the pickle is executed. */
void *tm_pickle_load(const char *path, gsize *ret_bytes, GError **error);
/* The same from memory; `st` tells its size and, for pickles that do not say, its time. */
void *tm_pickle_load_memory(const guint8 *data, const struct stat *st, gsize *ret_bytes,
                            GError **error);
void tm_pickle_unload(void *image, gsize n_bytes);
