// SPDX-License-Identifier: MIT
/* The memory of another process: reading without stopping it, writing past page protections. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads up to n_bytes at addr; returns how many could be read before the first page that cannot
 * (0 where the first one cannot), or -errno where the process cannot be read at all. */
ssize_t tm_memory_read_some(pid_t pid, uint64_t addr, void *buffer, size_t n_bytes);
/* All or nothing. The buffer's contents are unspecified on failure. */
bool tm_memory_read(pid_t pid, uint64_t addr, void *buffer, size_t n_bytes, GError **error);
/* Writes through process_vm_writev: writable pages only. */
bool tm_memory_write(pid_t pid, uint64_t addr, const void *buffer, size_t n_bytes, GError **error);

/* /proc/PID/mem for writing where pages may be missing or read-only, as a tracer may. Returns a
 * descriptor to close, or -errno. */
int tm_memory_open(pid_t pid);
/* Returns 0 or -errno; a short write is -EIO. */
int tm_memory_pwrite(int mem_fd, uint64_t addr, const void *buffer, size_t n_bytes);
