// SPDX-License-Identifier: MIT
/*
 * A snapshot as the Python module holds it: a .tms image in memory, whether it
 * was taken from the live store, read from a file, or built from dictionaries.
 * It becomes Python objects only when somebody asks. An image never changes;
 * filters make a new one. Counted references; GIL for all but tm_pyimage_take_fd.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/tms_reader.h"
#include "format/tms_writer.h"
#include "payload/pymodule/names.h"
#include "payload/pymodule/pyfuncs.h"

struct tm_pyimage {
    uint32_t refs; /* GIL */
    void *map;
    size_t map_bytes;
    struct tms_file file;
    bool has_traces; /* the API's `traces` is not None */
    bool has_stats;
};

/* The image of a file in memory (a memfd, at any offset; closed), with one reference. NULL with an
 * exception. */
struct tm_pyimage *tm_pyimage_adopt_fd(int fd);
/* Of the live store, now; lets the GIL go meanwhile. NULL with an exception. */
struct tm_pyimage *tm_pyimage_take(bool with_traces);
/* Reads a .tms file. NULL with an exception: OSError, TypeError. `path`: str. */
struct tm_pyimage *tm_pyimage_load(PyObj *path, bool with_traces);
void tm_pyimage_ref(struct tm_pyimage *image);
void tm_pyimage_unref(struct tm_pyimage *image);

/* The capsule that Python holds. Takes a reference over, also on failure. */
PyObj *tm_pyimage_wrap(struct tm_pyimage *image);
/* Borrowed; NULL with an exception where it is no such capsule. */
struct tm_pyimage *tm_pyimage_get(PyObj *capsule);
/* Capsules of images and groups that are alive: our code is their destructor. */
extern long tm_pycapsules;

struct tm_names tm_pyimage_names(const struct tm_pyimage *image);
int tm_memfd(const char *name);

/* A snapshot's data that lie beside the image: what Python may have changed since. */
struct tm_pyextras {
    uint64_t timestamp_ns;
    int64_t pid;             /* -1: none */
    int64_t traceback_limit; /* -1: the image's */
    PyObj *metrics;          /* list of (name, value, format), borrowed; NULL: the image's */
    const uint8_t *keep_node, *keep_stat; /* what filters keep; NULL: all */
};

/* Writes the image with its extras as .tms into an empty regular file. 0, or -errno; -EILSEQ with
 * an exception set where the extras are not what they should be. */
int tm_pyimage_write(const struct tm_pyimage *image, const struct tm_pyextras *extras, int fd);

/* ---- functions of the module ---- */
PyObj *tm_image_py_take(PyObj *self, PyObj *args);    /* (traces) */
PyObj *tm_image_py_load(PyObj *self, PyObj *args);    /* (path, traces) */
PyObj *tm_image_py_info(PyObj *self, PyObj *capsule); /* see image.c */
PyObj *tm_image_py_traces(PyObj *self, PyObj *capsule);
PyObj *tm_image_py_stats(PyObj *self, PyObj *capsule);
