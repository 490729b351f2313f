// SPDX-License-Identifier: MIT
/* Struct layouts of an interpreter from its own debug information. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "format/layout.h"
#include "inspect/module.h"
#include "inspect/python.h"

/*
 * Fills *ret from the DWARF of the interpreter, or of the separate debug file that its build-id
 * or .gnu_debuglink names under /usr/lib/debug (of the target's root, then of ours). Fields that
 * this version does not have are TM_NO_FIELD. Takes up to some 100 ms: never call it while
 * something is stopped. TM_INSPECT_ERROR_NOT_FOUND where there is no debug information, or it
 * lacks a type that is needed; *ret is then untouched.
 */
bool tm_layout_from_dwarf(tm_modules *modules, const struct tm_python *python,
                          struct tm_layout *ret, GError **error);
