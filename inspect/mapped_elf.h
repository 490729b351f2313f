// SPDX-License-Identifier: MIT
/* An ELF file as it lies in a process' memory: the payload's memfd has no other form. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "inspect/target.h"

/* The address of a symbol that the module at start_addr exports. False where it has none, or where
 * its tables are not in memory. */
bool tm_mapped_elf_find_export(tm_target *target, uint64_t start_addr, const char *name,
                               uint64_t *ret_addr);
/* Lower-case hexadecimal, to be freed; NULL where it cannot be told. */
char *tm_mapped_elf_build_id(tm_target *target, uint64_t start_addr);
