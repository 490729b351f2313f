// SPDX-License-Identifier: MIT
#include "payload/tstate.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "payload/pyapi.h"

enum tm_tstate_access tm_tstate_access;
const uint64_t *tm_tstate_global;
int64_t tm_tstate_tls_offset;

#if defined(__x86_64__)
/*
 * Up to 3.11 _PyThreadState_UncheckedGet (Python/pystate.c) is one load from a global. Compilers
 * make of it "mov disp32(%rip), %rax; ret", or with the GOT between,
 * "mov disp32(%rip), %rax; mov disp(%rax), %rax; ret". Anything else is left alone.
 */
static const uint64_t *decode_global(const uint8_t *code)
{
    static const uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa};
    int32_t displacement;
    if (memcmp(code, endbr64, sizeof(endbr64)) == 0)
        code += sizeof(endbr64);
    if (code[0] != 0x48 || code[1] != 0x8b || code[2] != 0x05)
        return NULL;
    memcpy(&displacement, code + 3, sizeof(displacement));
    code += 7;
    const uint64_t *target = (const uint64_t *)(code + displacement);
    if (code[0] == 0xc3)
        return target;
    if (code[0] != 0x48 || code[1] != 0x8b)
        return NULL;
    if (code[2] == 0x00 && code[3] == 0xc3)
        return (const uint64_t *)*target;
    if (code[2] == 0x40 && code[4] == 0xc3)
        return (const uint64_t *)(*target + (uint64_t)(int64_t)(int8_t)code[3]);
    if (code[2] == 0x80 && code[7] == 0xc3) {
        memcpy(&displacement, code + 3, sizeof(displacement));
        return (const uint64_t *)(*target + (uint64_t)(int64_t)displacement);
    }
    return NULL;
}
#else
static const uint64_t *decode_global(const uint8_t *code)
{
    (void)code;
    return NULL;
}
#endif

static struct tls_search {
    uintptr_t thread;   /* that has looked */
    uintptr_t function; /* in the module that is looked for */
    uintptr_t data;     /* its TLS block for this thread */
    size_t bytes;
} search;

static int find_tls_block(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)data;
    const ElfW(Phdr) *tls = NULL;
    bool here = false;
    if (size < offsetof(struct dl_phdr_info, dlpi_tls_data) + sizeof(void *))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *phdr = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + phdr->p_vaddr;
        if (phdr->p_type == PT_TLS)
            tls = phdr;
        if (phdr->p_type == PT_LOAD && search.function - start < phdr->p_memsz)
            here = true;
    }
    if (!here)
        return 0;
    if (tls != NULL && info->dlpi_tls_data != NULL) {
        search.data = (uintptr_t)info->dlpi_tls_data;
        search.bytes = tls->p_memsz;
    }
    return 1;
}

/*
 * From 3.12 on it is a thread-local variable (_Py_tss_tstate). The TLS block of a module that was
 * there when the program started has the same distance from the thread pointer in every thread;
 * such blocks lie right below the thread pointer on x86-64. In that block exactly one word may hold
 * this thread's state.
 */
static bool find_tls(uint64_t tstate)
{
    enum { STATIC_TLS_MAX = 16384 };
    uintptr_t self = tm_tstate_thread_pointer();
    int found = 0;
    if (search.thread != self || search.data == 0 || search.data >= self ||
        self - search.data > STATIC_TLS_MAX)
        return false;
    for (size_t at = 0; at + sizeof(uint64_t) <= search.bytes; at += sizeof(uint64_t)) {
        if (*(const uint64_t *)(search.data + at) != tstate)
            continue;
        tm_tstate_tls_offset = (int64_t)(search.data + at - self);
        found++;
    }
    return found == 1;
}

void tm_tstate_look(void)
{
    search = (struct tls_search){.thread = tm_tstate_thread_pointer(),
                                 .function = (uintptr_t)tm_py.UncheckedGet};
    dl_iterate_phdr(find_tls_block, NULL);
}

void tm_tstate_setup(void)
{
    uint64_t tstate = (uint64_t)tm_py.UncheckedGet();
    tm_tstate_access = TM_TSTATE_BY_CALL;
    if (tstate == 0)
        return;
    if (tm_py.version_hex < 0x030c0000) {
        tm_tstate_global = tm_py.current_tstate;
        if (tm_tstate_global == NULL)
            tm_tstate_global = decode_global((const uint8_t *)(uintptr_t)tm_py.UncheckedGet);
        if (tm_tstate_global != NULL && *tm_tstate_global == tstate)
            tm_tstate_access = TM_TSTATE_GLOBAL;
        return;
    }
#if defined(__x86_64__)
    if (find_tls(tstate))
        tm_tstate_access = TM_TSTATE_TLS;
#endif
}
