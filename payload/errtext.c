// SPDX-License-Identifier: MIT
#include "payload/errtext.h"

#include <errno.h>

const char *tm_errtext(int number)
{
    switch (number) {
    case EPERM: return "operation not permitted";
    case ENOENT: return "no such file or directory";
    case EIO: return "input/output error";
    case EBADF: return "the directory's descriptor was closed by the program";
    case EAGAIN: return "resource temporarily unavailable";
    case ENOMEM: return "out of memory";
    case EACCES: return "permission denied";
    case EEXIST: return "the file exists, and the template has no $counter";
    case EXDEV: return "the names are on different file systems";
    case ENODEV: return "not tracing";
    case ENOTDIR: return "not a directory";
    case EISDIR: return "is a directory";
    case EINVAL: return "invalid argument";
    case ENFILE: return "too many open files in the system";
    case EMFILE: return "too many open files in the process";
    case EFBIG: return "the file would be larger than the process may write";
    case ENOSPC: return "no space left on the device";
    case EROFS: return "read-only file system";
    case ENAMETOOLONG: return "the file name is too long";
    case ELOOP: return "too many symbolic links";
    case EDQUOT: return "the disk quota is exceeded";
    case ESTALE: return "stale file handle";
    default: return "system error";
    }
}
