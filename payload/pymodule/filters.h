// SPDX-License-Identifier: MIT
/* Filters of the API over the analyzer's core: matching, and sifting an image. GIL. */
#pragma once

#include "payload/pymodule/pyfuncs.h"

PyObj *tm_filter_py_normalize(PyObj *self, PyObj *pattern); /* str -> str; ValueError */
/* (pattern, lineno or None, filename or None, lineno or None): does it match, inclusively? */
PyObj *tm_filter_py_match(PyObj *self, PyObj *args);
/* (image, [(include, pattern, lineno or None, traceback)]): a new image of what they keep */
PyObj *tm_filter_py_apply(PyObj *self, PyObj *args);
