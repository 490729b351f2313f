// SPDX-License-Identifier: MIT
/*
 * The contract between tm-attach and the payload at the moment of the attach.
 *
 * tm-attach maps one block in the target: a page of code (the stub) and pages
 * of data that begin with struct tm_boot. A new thread of the target runs the
 * stub: it claims the block, dlopens the payload, finds TM_START_SYMBOL and
 * calls it. The function returns when the payload has been detached; the stub
 * then dlcloses the payload, unmaps the block with its last instruction, and
 * the thread ends. tm-attach reads the block with process_vm_readv.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "format/layout.h"

#define TM_BOOT_MAGIC 0x544f4f42u /* "BOOT" */
#define TM_BOOT_VERSION 1u
#define TM_START_SYMBOL "tm_payload_start"
/* The name of the memfd that carries the payload: seen in /proc/PID/maps. A
 * counter follows it, so that no two loads share a name. */
#define TM_MEMFD_PREFIX "tm-payload-"

/* Written by the target's side only; it only ever grows, but for FAILED. */
enum tm_boot_phase {
    TM_BOOT_EMPTY = 0,    /* mapped, nobody has come by */
    TM_BOOT_THREAD = 1,   /* the new thread runs the stub */
    TM_BOOT_DLOPEN = 2,   /* inside dlopen or dlsym */
    TM_BOOT_STARTED = 3,  /* the start function was entered */
    TM_BOOT_WAIT_GIL = 4, /* waits for the GIL */
    TM_BOOT_RUNNING = 5,  /* control_fd is valid: tm-attach takes over on the channel */
    TM_BOOT_FAILED = 6,   /* error and message say why */
    TM_BOOT_ENDED = 7,    /* detached; the block is about to be unmapped */
};

/* A claim decides who owns the block; taken by compare-and-swap from FREE. */
enum tm_boot_claim {
    TM_CLAIM_FREE = 0,
    TM_CLAIM_THREAD = 1,    /* the new thread came in time */
    TM_CLAIM_ABANDONED = 2, /* tm-attach gave up: a late thread must unmap and end */
};

enum tm_boot_error {
    TM_BOOT_OK = 0,
    TM_BOOT_E_DLOPEN = 1,   /* message: dlerror's */
    TM_BOOT_E_SYMBOL = 2,   /* message: dlerror's */
    TM_BOOT_E_VERSION = 3,  /* stub and payload do not speak the same version */
    TM_BOOT_E_PYTHON = 4,   /* not a Python it can trace: message says why */
    TM_BOOT_E_GIL = 5,      /* the GIL was not to be had within the bound */
    TM_BOOT_E_LAYOUT = 6,   /* the struct layouts do not fit what the C API says */
    TM_BOOT_E_RESOURCE = 7, /* memory, descriptors, threads */
    TM_BOOT_E_BUSY = 8,     /* another payload is in this process */
};

struct tm_boot {
    uint32_t magic;              /* TM_BOOT_MAGIC */
    uint32_t version;            /* TM_BOOT_VERSION */
    uint32_t size_bytes;         /* sizeof(struct tm_boot) as the writer knows it */
    _Atomic uint32_t phase;      /* enum tm_boot_phase */
    _Atomic uint32_t claim;      /* enum tm_boot_claim */
    _Atomic uint32_t error_seen; /* tm-attach sets 1 after it has read a failure; the stub
                                    waits for that at most two seconds before it unmaps */
    int32_t error;               /* enum tm_boot_error */
    int32_t control_fd;          /* the target's number of the channel's client end */
    uint32_t gil_timeout_ms;     /* how long the payload may wait for the GIL; 0: its default */
    _Atomic uint32_t
        loader_busy;     /* the library comes or goes: forks wait. The stub sets 1, and 0 after
                            that; the payload sets 0 once it has looked at the modules */
    uint64_t block_addr; /* the whole mapping, code and data, that the stub unmaps */
    uint64_t block_bytes;
    uint64_t state_addr;     /* set by the payload: its struct tm_state (format/state.h) */
    struct tm_layout layout; /* from the target's DWARF; source NONE where there was none */
    char message[504];       /* NUL-terminated, one line */
    /* Of the stub, void (*)(struct tm_boot *): sets loader_busy, and waits for forks that have
     * begun, so that none happens until loader_busy is 0 again, unless that takes long. 0: none. */
    uint64_t hold_forks_addr;
};

_Static_assert(sizeof(struct tm_boot) == 40 + 3 * 8 + 128 + 504 + 8, "struct tm_boot is an ABI");
