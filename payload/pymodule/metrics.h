// SPDX-License-Identifier: MIT
/* Metrics that the interpreter itself must tell: arenas, interned strings. GIL. */
#pragma once

#include "payload/pymodule/pyfuncs.h"

PyObj *tm_metric_arena_size(PyObj *self, PyObj *unused);
/* (size, length) of the dictionary of interned strings, or None. */
PyObj *tm_metric_unicode_interned(PyObj *self, PyObj *unused);
