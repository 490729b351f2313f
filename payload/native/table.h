// SPDX-License-Identifier: MIT
/*
 * The native modules of this process and their unwind tables.
 *
 * A map is built on a thread that holds neither the GIL nor a lock of ours (the
 * loader's lock is taken, module by module), never changes afterwards, and is
 * published by swapping one pointer while the lanes of the store stand still:
 * a hook that runs reads either the old map or the new one, and nobody reads
 * the old one when it is freed. All memory is our own, so that a module that is
 * unloaded meanwhile takes nothing away that a hook may read.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "format/state.h"
#include "payload/native/cfi.h"

enum { TM_NATIVE_MODULES_MAX = 4096 };

struct tm_native_table {
    struct tm_cfi_row *rows; /* NULL: no usable table */
    uint32_t n_rows;
    uint32_t users; /* maps that have it */
};

struct tm_native_range {
    uint64_t start, end;
    struct tm_native_table *table;
    uint32_t file; /* index of the file list */
    uint32_t reserved;
};

struct tm_native_map {
    uint64_t adds, subs;         /* of the loader, when it was built */
    uint64_t stamp;              /* the same by tm_native_loader_stamp */
    uint64_t own_start, own_end; /* the payload itself */
    uint32_t n_ranges;
    struct tm_native_range ranges[TM_NATIVE_MODULES_MAX]; /* ascending */
};

/* The files ever seen in this session, by index: tm_state_export.modules_addr. They never move and
 * stay while tracing is on; any thread may read up to the count. */
uint32_t tm_native_file_count(void);
const struct tm_state_module *tm_native_file_at(uint32_t index);

/* True where the loader has mapped or unmapped something since `map` was built. No locks held. */
bool tm_native_map_is_stale(const struct tm_native_map *map);
/* Returns when the loader's lock can be had: in a forked child that may be never, where a thread
 * that it has not held it at the fork. Without the GIL. */
void tm_native_wait_for_loader(void);
/* A map of now; tables of modules that `old` has as well are shared with it. NULL: memory is
 * short, or the interpreter goes down. One thread at a time, without the GIL: it is taken for each
 * module that is new. */
struct tm_native_map *tm_native_map_build(const struct tm_native_map *old);
void tm_native_map_free(struct tm_native_map *map);
/* Forgets the files; no map exists any more. */
void tm_native_files_done(void);
/* The same in a forked child, which did not inherit them. */
void tm_native_files_abandon(void);

/* The range that holds `pc`, or NULL. */
static inline const struct tm_native_range *tm_native_map_find(const struct tm_native_map *map,
                                                               uint64_t pc)
{
    uint32_t low = 0, high = map->n_ranges;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (map->ranges[middle].end <= pc)
            low = middle + 1;
        else
            high = middle;
    }
    return low < map->n_ranges && map->ranges[low].start <= pc ? &map->ranges[low] : NULL;
}

/* Whether the module is still what lies there, told by its build-id: after the loader has been at
 * work. Any thread. */
bool tm_native_range_is_there(const struct tm_native_map *map, const struct tm_native_range *range);
/* The rule for a frame whose return address is `pc`: that of the call before it. */
uint32_t tm_native_range_rule(const struct tm_native_range *range, uint64_t pc);
/* Where the function that begins at `start` ends, by its unwind table; `start` where there is none.
 * Takes the loader's lock. */
uint64_t tm_native_function_end(uint64_t start);
