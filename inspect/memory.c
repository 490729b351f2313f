// SPDX-License-Identifier: MIT
/* The memory of another process. Never stops it. */
#include "inspect/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "inspect/error.h"

#define PAGE_BYTES 4096u

ssize_t tm_memory_read_some(pid_t pid, uint64_t addr, void *buffer, size_t n_bytes)
{
    size_t done = 0;
    while (done < n_bytes) {
        struct iovec local = {(char *)buffer + done, n_bytes - done};
        struct iovec remote = {(void *)(uintptr_t)(addr + done), n_bytes - done};
        ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
        /* The kernel counts in whole elements of the vector when a page is missing: narrow down
         * to the page that is there before saying that nothing is. */
        if (n < 0 && errno == EFAULT) {
            size_t in_page = PAGE_BYTES - (addr + done) % PAGE_BYTES;
            if (in_page >= n_bytes - done)
                break;
            local.iov_len = remote.iov_len = in_page;
            n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
        }
        if (n < 0 && errno == EFAULT)
            break;
        if (n < 0)
            return done > 0 ? (ssize_t)done : -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

bool tm_memory_read(pid_t pid, uint64_t addr, void *buffer, size_t n_bytes, GError **error)
{
    ssize_t n = tm_memory_read_some(pid, addr, buffer, n_bytes);
    if (n == (ssize_t)n_bytes)
        return true;
    tm_inspect_set_errno(error, n < 0 ? (int)-n : EFAULT,
                         "cannot read %zu bytes at 0x%" G_GINT64_MODIFIER "x of process %d",
                         n_bytes, addr, (int)pid);
    return false;
}

bool tm_memory_write(pid_t pid, uint64_t addr, const void *buffer, size_t n_bytes, GError **error)
{
    struct iovec local = {(void *)(uintptr_t)buffer, n_bytes};
    struct iovec remote = {(void *)(uintptr_t)addr, n_bytes};
    ssize_t n = process_vm_writev(pid, &local, 1, &remote, 1, 0);
    if (n == (ssize_t)n_bytes)
        return true;
    tm_inspect_set_errno(error, n < 0 ? errno : EFAULT,
                         "cannot write %zu bytes at 0x%" G_GINT64_MODIFIER "x of process %d",
                         n_bytes, addr, (int)pid);
    return false;
}

int tm_memory_open(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int tm_memory_pwrite(int mem_fd, uint64_t addr, const void *buffer, size_t n_bytes)
{
    size_t done = 0;
    while (done < n_bytes) {
        ssize_t n =
            pwrite(mem_fd, (const char *)buffer + done, n_bytes - done, (off_t)(addr + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}
