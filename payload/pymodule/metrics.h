// SPDX-License-Identifier: MIT
/* The metric of the arenas. GIL. */
#pragma once

#include "payload/pymodule/pyfuncs.h"

PyObj *tm_metric_arena_size(PyObj *self, PyObj *unused);
/* (size, length) of the dictionary of interned strings, or None. */
