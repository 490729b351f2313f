// SPDX-License-Identifier: MIT
/* How to leave a native frame: a rule of payload/native/cfi.h, unpacked. */
#pragma once

#include <stdint.h>

#include "payload/native/cfi.h"

/* What a C frame is. */
enum tm_native_role {
    TM_NATIVE_ROLE_UNKNOWN = 0,
    TM_NATIVE_ROLE_C = 1,
    TM_NATIVE_ROLE_EVAL = 2, /* runs Python code, and is shown as the frames that it runs */
    TM_NATIVE_ROLE_OWN = 3,  /* the payload's: not shown */
};

/* Beside enum tm_cfi_kind: no module is known at the address. */
enum { TM_NATIVE_KIND_NO_MODULE = 7 };

struct tm_native_rule {
    int32_t cfa_bytes;
    int16_t saved_bytes; /* 0: rbp is unchanged */
    uint8_t kind;        /* enum tm_cfi_kind */
    uint8_t role;        /* enum tm_native_role */
};

static inline struct tm_native_rule tm_native_rule_unpack(uint32_t packed)
{
    return (struct tm_native_rule){
        .cfa_bytes = (int32_t)tm_cfi_offset_bytes(packed),
        .saved_bytes = (int16_t)tm_cfi_saved_bytes(packed),
        .kind = (uint8_t)tm_cfi_kind(packed),
    };
}
