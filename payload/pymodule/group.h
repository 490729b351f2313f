// SPDX-License-Identifier: MIT
/*
 * Snapshot.top_by and GroupedStats.compare_to: the analyzer's core on images.
 * The results stay C objects (capsules) until Python asks for dictionaries and
 * lists. GIL; it is let go while the core works.
 */
#pragma once

#include "payload/pymodule/pyfuncs.h"

PyObj *tm_group_py_make(PyObj *self, PyObj *args);    /* (image, by, cumulative): groups */
PyObj *tm_group_py_stats(PyObj *self, PyObj *groups); /* {key: (size, count)} */
PyObj *tm_group_py_compare(PyObj *self, PyObj *args); /* (new, old or None): differences */
/* (differences, limit): [(size_diff, size, count_diff, count, key)], limit < 0: all */
PyObj *tm_group_py_rows(PyObj *self, PyObj *args);
/* (number of groups, total, rest behind the first `limit`), the latter two without a key */
PyObj *tm_group_py_sums(PyObj *self, PyObj *args);
