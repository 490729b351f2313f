// SPDX-License-Identifier: MIT
/*
 * An image from dictionaries: of a Snapshot that a program made or changed, and
 * of pickles. What dictionaries say is what the core then groups and compares.
 */
#pragma once

#include "payload/pymodule/pyfuncs.h"

/* (timestamp_ns, pid, traceback_limit, traces or None, stats or None): a capsule. What the
 * dictionaries hold is checked: TypeError, OverflowError. */
PyObj *tm_build_py_image(PyObj *self, PyObj *args);
