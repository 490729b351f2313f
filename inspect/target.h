// SPDX-License-Identifier: MIT
/*
 * The memory of a process as something to read from: a live process, or the
 * core file that one has left. Reading stops nothing, writes nothing and runs
 * nothing in the process. Everything that is read is material, not truth: the
 * reader checks it.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "inspect/module.h"

struct tm_target_ops {
    /* Bytes that could be read before the first that cannot, or -errno. */
    ssize_t (*read_some)(void *data, uint64_t addr, void *buffer, size_t n_bytes);
    /* The bytes where they lie, without a copy; NULL where they are not in one piece. */
    const void *(*peek)(void *data, uint64_t addr, size_t n_bytes);
    void (*free)(void *data);
};

/* What is known of the process itself. Zero or NULL: not known. */
struct tm_target_facts {
    int64_t pid; /* in its own namespace where that is known */
    int64_t ppid;
    char *cmdline;         /* owned by the target */
    int64_t start_time_ns; /* CLOCK_REALTIME */
    int64_t timestamp_ns;  /* CLOCK_REALTIME of the moment that is shown */
    int64_t rss_bytes, vms_bytes;
};

typedef struct tm_target {
    const struct tm_target_ops *ops;
    void *data;
    char *name; /* for messages: "process 123", the core's path */
    bool live;  /* it may change while it is read */
    tm_modules *modules;
    struct tm_target_facts facts;
} tm_target;

/* Free both with tm_target_free. */
tm_target *tm_target_live(pid_t pid, GError **error);
/* Only the memory of a live process: modules and facts are empty, nothing is to be freed. */
void tm_target_init_memory(tm_target *ret, pid_t pid);
/* exe: the program that left the core, NULL for the one that the core names. Files that the core
 * names are opened only where their build-id is the one in the core, or cannot be told. */
tm_target *tm_target_core(const char *path, const char *exe, GError **error);
/* The same from bytes, which are kept; opens no files. */
tm_target *tm_target_core_bytes(GBytes *bytes, const char *name, GError **error);
void tm_target_free(tm_target *target);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_target, tm_target_free)

/* Bytes read before the first that is missing; an error counts as 0. */
size_t tm_target_read_some(tm_target *target, uint64_t addr, void *buffer, size_t n_bytes);
/* All or nothing; `what` is for the message. */
bool tm_target_read(tm_target *target, uint64_t addr, void *buffer, size_t n_bytes,
                    const char *what, GError **error);
/* The bytes, in place or copied to `buffer` (n_bytes long). NULL where some are missing. */
const void *tm_target_view(tm_target *target, uint64_t addr, void *buffer, size_t n_bytes);
