// SPDX-License-Identifier: MIT
#include "payload/ownfd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HIGH_FD 512

int tm_sys_fstat(int fd, struct stat *ret)
{
    return syscall(SYS_fstat, fd, ret) ? -errno : 0;
}

int tm_sys_fstatat(int dir_fd, const char *path, struct stat *ret)
{
    return syscall(SYS_newfstatat, dir_fd, path, ret, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int move_high(int fd)
{
    struct rlimit limit;
    int lowest = HIGH_FD;

    if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < 2 * HIGH_FD)
        lowest = (int)(limit.rlim_cur / 2);
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, lowest);
    if (moved < 0) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        return fd;
    }
    close(fd);
    return moved;
}

struct tm_ownfd tm_ownfd_adopt(int fd)
{
    struct tm_ownfd own = {.fd = move_high(fd)};
    struct stat st;

    if (!tm_sys_fstat(own.fd, &st)) {
        own.device = st.st_dev;
        own.inode = st.st_ino;
    }
    return own;
}

bool tm_ownfd_is_ours(const struct tm_ownfd *own)
{
    struct stat st;

    return own->fd >= 0 && !tm_sys_fstat(own->fd, &st) && st.st_dev == own->device &&
           st.st_ino == own->inode;
}

void tm_ownfd_close(struct tm_ownfd *own)
{
    if (tm_ownfd_is_ours(own))
        close(own->fd);
    own->fd = -1;
}
