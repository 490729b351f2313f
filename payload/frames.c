// SPDX-License-Identifier: MIT
#include "payload/frames.h"

static uint64_t first_instruction(uint64_t code)
{
    return code + (uint32_t)tm_layout.code_adaptive;
}

int32_t tm_frames_lasti_bytes(tm_frame_ref frame)
{
    if (tm_frames_are_objects(&tm_layout)) {
        int32_t lasti = *(const int32_t *)(frame + (uint32_t)tm_layout.frame_lasti);
        /* 3.10 counts code units of two bytes (Objects/frameobject.c, PyFrame_GetLineNumber). */
        return tm_layout.py_version >= 0x030a && lasti > 0 ? lasti * 2 : lasti;
    }
    uint64_t code = tm_frames_code(&tm_layout, frame);
    uint64_t instr = tm_frames_load(frame + (uint32_t)tm_layout.iframe_instr);
    return (int32_t)(int64_t)(instr - first_instruction(code));
}

void tm_frames_code_keys(uint64_t code, uint64_t *ret_low, uint64_t *ret_high)
{
    if (tm_frames_are_objects(&tm_layout)) {
        *ret_low = code >> 3 << 20;
        *ret_high = *ret_low + (1 << 20);
        return;
    }
    int64_t units = *(const int64_t *)(code + (uint32_t)tm_layout.code_nbytes_size);
    /* prev_instr of a frame that has not begun lies one unit before the first (3.11, 3.12). */
    *ret_low = first_instruction(code) - 2;
    *ret_high = first_instruction(code) + (uint64_t)units * 2 + 2;
}
