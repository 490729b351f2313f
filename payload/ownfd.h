// SPDX-License-Identifier: MIT
/*
 * A descriptor of the agent's, in a process whose program may close it.
 *
 * Programs close what they did not open (daemon(), closefrom()) and then open
 * files of their own under the same numbers. The agent therefore remembers what
 * each of its numbers stood for, and neither reads, writes nor closes a number
 * that stands for something else by now. The numbers are moved out of the way of
 * programs that expect the lowest free one.
 *
 * Agent thread only. Calls no function of Python's.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct tm_ownfd {
    int fd; /* -1: none */
    uint64_t device, inode;
};

#define TM_OWNFD_NONE ((struct tm_ownfd){.fd = -1})

/* Moves fd (>= 0) to a high number with close-on-exec and remembers what it is. Takes fd over. */
struct tm_ownfd tm_ownfd_adopt(int fd);
/* Whether the number still stands for what was adopted. */
bool tm_ownfd_is_ours(const struct tm_ownfd *own);
/* Closes it if it is still ours. None is fine. */
void tm_ownfd_close(struct tm_ownfd *own);

/* fstat and fstatat by system call: glibc has had names for them only since 2.33. 0 or -errno. */
int tm_sys_fstat(int fd, struct stat *ret);
int tm_sys_fstatat(int dir_fd, const char *path, struct stat *ret);
