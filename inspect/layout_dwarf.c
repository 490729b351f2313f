// SPDX-License-Identifier: MIT
#include "inspect/layout_dwarf.h"

#include "inspect/error.h"

bool tm_layout_from_dwarf(tm_modules *modules, const struct tm_python *python,
                          struct tm_layout *ret, GError **error)
{
    (void)modules, (void)python, (void)ret;
    g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND, "no debug information");
    return false;
}
