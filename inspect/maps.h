// SPDX-License-Identifier: MIT
/* /proc/PID/maps as a table. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tm_map {
    uint64_t start_addr;
    uint64_t end_addr;
    uint64_t offset_bytes; /* in the file */
    uint64_t inode;        /* 0: no file */
    uint32_t dev_major;
    uint32_t dev_minor;
    char perms[5];    /* "r-xp" */
    bool deleted;     /* the kernel says that the file has no name any more */
    const char *path; /* without " (deleted)", unescaped; "" for anonymous. Owned by the table. */
};

typedef struct tm_maps {
    struct tm_map *items; /* by ascending address */
    size_t count;
    GStringChunk *paths;
} tm_maps;

/* Reads the maps of pid. Free with tm_maps_free. NULL and *error where it cannot be read. */
tm_maps *tm_maps_read(pid_t pid, GError **error);
/* Parses text of that format; every line must be well formed. */
tm_maps *tm_maps_parse(const char *text, GError **error);
void tm_maps_free(tm_maps *maps);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_maps, tm_maps_free)

/* The mapping that holds addr; NULL where there is none. Borrowed. */
const struct tm_map *tm_maps_find(const tm_maps *maps, uint64_t addr);
