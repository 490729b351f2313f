// SPDX-License-Identifier: MIT
/*
 * Writes an image as a pickle (protocol 2) that tracemalloc.Snapshot.load of the
 * same Python reads. What its Snapshot has no room for comes as further
 * attributes of plain types:
 *
 *   timestamp         datetime.datetime, local time; timestamp_ns: int
 *   pid               int
 *   stats             {filename or None: {line or None: (size, count)}} or None
 *   metrics           {name: (value, format)}
 *   addresses         list of int, parallel to the traces
 *   empty_tracebacks  list of positions in the traces
 *
 * The standard library wants at least one frame and knows no None: an empty
 * traceback and an unknown file become '<unknown>', an unknown line 0.
 */
#pragma once

#include "payload/pymodule/image.h"

/* fd: empty, borrowed. 0 or -errno; -EILSEQ with an exception set. Needs the GIL, lets it go. */
int tm_pickle_write(const struct tm_pyimage *image, const struct tm_pyextras *extras, int fd);
