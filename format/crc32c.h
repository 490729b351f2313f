// SPDX-License-Identifier: MIT
/* CRC-32C (Castagnoli, reflected polynomial 0x82f63b78): the checksum of .tms sections. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 to begin) over n_bytes. Uses the CPU's instruction where there is one. */
uint32_t tm_crc32c(uint32_t crc, const void *data, size_t n_bytes);
/* The same without the instruction: other machines, and the tests. */
uint32_t tm_crc32c_portable(uint32_t crc, const void *data, size_t n_bytes);
