// SPDX-License-Identifier: MIT
/*
 * Call frame information of one module (.eh_frame, found through its
 * .eh_frame_hdr) compiled into a sorted array of rows. Reads the mapped module
 * and writes to the caller's sink; no libc calls, any thread. Nothing in the
 * module's tables is trusted: every read is checked against the bounds given.
 *
 * The format is that of the LSB core specification ("Exception Frames") and of
 * DWARF 5, 6.4; register numbers are those of the x86-64 psABI.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * How to leave a frame, packed: bits 0..2 the kind, 3..20 the offset of the CFA
 * in words (signed), 21..31 where rbp was saved, in words from the CFA (signed;
 * 0: rbp is unchanged). The return address is always the word below the CFA.
 */
enum tm_cfi_kind {
    TM_CFI_UNKNOWN = 0,   /* no table, or a rule that is not kept here: the stack ends, marked */
    TM_CFI_RSP = 1,       /* CFA = rsp + offset */
    TM_CFI_RBP = 2,       /* CFA = rbp + offset */
    TM_CFI_RBP_DEREF = 3, /* CFA = *(rbp + offset), rbp saved at rbp + saved: realigned stacks */
    TM_CFI_END = 4,       /* the outermost frame, says the table */
};

#define TM_CFI_OFFSET_BITS 18
#define TM_CFI_SAVED_BITS 11

static inline uint32_t tm_cfi_kind(uint32_t rule)
{
    return rule & 7;
}
static inline int64_t tm_cfi_offset_bytes(uint32_t rule)
{
    return (int64_t)((int32_t)(rule << TM_CFI_SAVED_BITS) >> (32 - TM_CFI_OFFSET_BITS)) * 8;
}
static inline int64_t tm_cfi_saved_bytes(uint32_t rule)
{
    return (int64_t)((int32_t)rule >> (32 - TM_CFI_SAVED_BITS)) * 8;
}

struct tm_cfi_row {
    uint32_t pc_offset; /* from the module's start; valid up to the next row */
    uint32_t rule;
};

/* A mapped module. All addresses are run-time ones. */
struct tm_cfi_module {
    uint64_t start, end;           /* of its mappings */
    uint64_t hdr_addr;             /* .eh_frame_hdr */
    uint64_t read_start, read_end; /* of the readable segment that holds .eh_frame_hdr */
};

/* Takes a row; rows come in ascending order. False ends the compilation. */
typedef bool tm_cfi_sink(void *data, struct tm_cfi_row row);

/* False where the tables cannot be used at all or the sink said so. */
bool tm_cfi_compile(const struct tm_cfi_module *module, tm_cfi_sink *sink, void *data);

/* How long the function is that begins at `pc`, by its entry; 0: there is none. */
uint64_t tm_cfi_function_bytes(const struct tm_cfi_module *module, uint64_t pc);
