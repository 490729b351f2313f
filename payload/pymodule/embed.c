// SPDX-License-Identifier: MIT
#include "payload/pymodule/embed.h"

/* TM_EMBED_PATH comes from CMakeLists.txt, which rebuilds this file when the source changes. */
__asm__(".pushsection .rodata\n"
        ".global tm_embed_source\n"
        ".hidden tm_embed_source\n"
        "tm_embed_source:\n"
        ".incbin \"" TM_EMBED_PATH "\"\n"
        ".byte 0\n"
        ".popsection\n");
