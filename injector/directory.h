// SPDX-License-Identifier: MIT
/* The directory that snapshots go to: opened here, passed to the target as a descriptor, so that
 * files appear where the user expects them whatever the target's mounts are. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

struct tm_directory {
    int fd;     /* owned; -1: none (--in-target) */
    char *path; /* owned; as the user knows it */
    char *name; /* owned; the template for files in it */
    bool made;  /* a subdirectory that belongs to the target's user */
};

/*
 * Splits the template into a directory (of the caller's view) and a name, and
 * opens the directory. Where the process runs as another user who could not
 * write there, a subdirectory tracemalloc-PID is made for that user.
 */
bool tm_directory_open(struct tm_directory *ret, const char *template, pid_t pid, GError **error);
void tm_directory_done(struct tm_directory *directory);
