// SPDX-License-Identifier: MIT
/* Snapshot.write: the name decides the format, and a failure leaves no file. GIL. */
#pragma once

#include "payload/pymodule/image.h"

/* (image, path, timestamp_ns, pid, traceback_limit, [(name, value, format)]) */
PyObj *tm_save_py(PyObj *self, PyObj *args);
/* The same from C; `path` in the file system's encoding. 0 or -errno; -EILSEQ: exception set. */
int tm_save_image(const struct tm_pyimage *image, const struct tm_pyextras *extras,
                  const char *path);
