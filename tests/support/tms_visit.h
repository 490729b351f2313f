// SPDX-License-Identifier: MIT
/* Looks at every byte that a .tms reader gives out. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "format/tms_reader.h"

/* Digest of all that the file says; false where a group cannot be decoded. */
bool tms_visit(const struct tms_file *file, uint32_t *ret_digest, struct tms_error *error);
