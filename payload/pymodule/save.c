// SPDX-License-Identifier: MIT
#include "payload/pymodule/save.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "payload/ownfd.h"
#include "payload/pymodule/pickle.h"

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && memcmp(text + n - m, end, m) == 0;
}

/* Where the file is to appear: behind links, as open() would write it. 0 or -errno. */
static int resolve(const char *path, char ret[PATH_MAX])
{
    struct stat st;
    if (tm_sys_fstatat(AT_FDCWD, path, &st) == 0) {
        if (!S_ISREG(st.st_mode))
            return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
        if (realpath(path, ret) != NULL)
            return 0;
    }
    return snprintf(ret, PATH_MAX, "%s", path) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int open_beside(const char *path, char ret[PATH_MAX])
{
    for (unsigned i = 0; i < 1000; i++) {
        if (snprintf(ret, PATH_MAX, "%s.%d-%u.tmp", path, (int)getpid(), i) >= PATH_MAX)
            return -ENAMETOOLONG;
        int fd = open(ret, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0)
            return fd;
        if (errno != EEXIST)
            return -errno;
    }
    return -EEXIST;
}

int tm_save_image(const struct tm_pyimage *image, const struct tm_pyextras *extras,
                  const char *path)
{
    char final[PATH_MAX], temporary[PATH_MAX];
    int status = resolve(path, final);
    if (status < 0)
        return status;
    int fd = open_beside(final, temporary);
    if (fd < 0)
        return fd;
    status = ends_with(path, ".pickle") ? tm_pickle_write(image, extras, fd)
                                        : tm_pyimage_write(image, extras, fd);
    tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
    if (status == 0 && fsync(fd) < 0 && errno != EINVAL)
        status = -errno;
    if (close(fd) < 0 && status == 0)
        status = -errno;
    if (status == 0 && rename(temporary, final) < 0)
        status = -errno;
    if (status < 0)
        unlink(temporary);
    tm_pyf.PyEval_RestoreThread(tstate);
    return status;
}

PyObj *tm_save_py(PyObj *self, PyObj *args)
{
    PyObj *capsule, *path, *metrics;
    unsigned long long timestamp_ns;
    long long pid;
    int limit;
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "OOKLiO", &capsule, &path, &timestamp_ns, &pid, &limit,
                                 &metrics))
        return NULL;
    struct tm_pyimage *image = tm_pyimage_get(capsule);
    PyObj *bytes = image ? tm_pyf.PyUnicode_EncodeFSDefault(path) : NULL;
    if (bytes == NULL)
        return NULL;
    const struct tm_pyextras extras = {
        .timestamp_ns = timestamp_ns, .pid = pid, .traceback_limit = limit, .metrics = metrics};
    const char *name = tm_py_file_name(bytes);
    if (name == NULL) {
        tm_py_decref(bytes);
        return NULL;
    }
    int status = tm_save_image(image, &extras, name);
    tm_py_decref(bytes);
    if (status == 0)
        return tm_py_none();
    if (status != -EILSEQ) {
        errno = -status;
        tm_pyf.PyErr_SetFromErrnoWithFilenameObject(tm_pyf.os_error, path);
    }
    return NULL;
}
