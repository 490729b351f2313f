// SPDX-License-Identifier: MIT
/*
 * What the payload keeps in the target's memory, as a reader outside sees it.
 *
 * The payload exports one object, TM_STATE_SYMBOL, of type struct tm_state. A
 * reader (tm-attach, tm-analyze extract, gdb, a core file) finds the module by
 * its name in the maps (memfd:tm-payload-*, or the Python extension), its
 * symbol in .dynsym, checks magic and version, and walks from there with
 * process_vm_readv or from the core's segments. All pointers are addresses in
 * the target. Nothing here may be trusted by the reader.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "format/layout.h"

#define TM_STATE_SYMBOL "tm_state_export"
#define TM_STATE_MAGIC 0x3145544154534d54ull /* "TMSTATE1" */
#define TM_STATE_VERSION 2u

/* A growing array that never moves: segments of 1 << TM_VEC_SHIFT elements. */
#define TM_VEC_SHIFT 12
#define TM_VEC_SEGMENTS 65536u
struct tm_vec {
    uint64_t dir_addr; /* u64[TM_VEC_SEGMENTS]: addresses of segments; 0: not there yet */
    uint32_t elem_bytes;
    _Atomic uint32_t count; /* elements that are complete */
};

/* Strings of files and functions: a vec of these, bytes elsewhere. */
struct tm_string {
    uint64_t addr; /* UTF-8 (surrogatepass), not NUL-terminated */
    uint32_t n_bytes;
    uint32_t hash;
};

struct tm_site {
    uint32_t file;      /* string id, TM_NONE: unknown */
    uint32_t function;  /* string id, TM_NONE: unknown */
    int32_t line;       /* < 1: unknown */
    int32_t first_line; /* native frames: number of the module plus 1; 0: in none */
    uint64_t address;   /* native frames: the return address; else 0 */
    uint32_t flags;     /* enum tm_site_flags */
    uint32_t hash;
};
#define TM_NONE 0xffffffffu
enum tm_site_flags {
    TM_SITE_NATIVE = 1u << 0,
    /* Some filter of that kind matches: on the most recent frame, on any frame. */
    TM_SITE_TOP_IN = 1u << 1,
    TM_SITE_TOP_OUT = 1u << 2,
    TM_SITE_TRACEBACK_IN = 1u << 3,
    TM_SITE_TRACEBACK_OUT = 1u << 4,
};

/* Node 0 is the empty traceback. parent < own index. */
struct tm_node {
    uint32_t parent;
    uint32_t site;
    uint32_t hash;
    uint16_t depth;
    uint16_t flags; /* enum tm_node_flags */
};
enum tm_node_flags {
    TM_NODE_EXCLUDED = 1u << 0, /* by the filters; nothing is traced here */
    TM_NODE_ANY_IN = 1u << 1,   /* some frame has TM_SITE_TRACEBACK_IN */
    TM_NODE_ANY_OUT = 1u << 2,  /* some frame has TM_SITE_TRACEBACK_OUT */
};

/* Counters by site id (parallel to the vec of sites) and for the empty traceback (index 0: sites
 * begin at id 1). Two of them are kept: one written under the GIL with plain stores, one with
 * atomic ones by threads without it. Their sum is the truth. */
struct tm_counter {
    int64_t live_bytes;
    uint64_t total_blocks; /* allocations */
    uint64_t gone_blocks;  /* frees; live blocks are the difference */
    int64_t peak_bytes;    /* highest live_bytes */
};
/* While sampling a block stands for others, and total_blocks and gone_blocks count in units of
 * 1 / TM_BLOCK_SCALE. */
#define TM_BLOCK_SCALE 256

/*
 * The shadow map: one 64-bit entry per granule of address space.
 *   l1[address >> 36] -> l2[(address >> 20) & 0xffff] -> chunk[(address & 0xfffff) >>
 * granule_shift] Entry: bits 0..23 size (TM_SIZE_OVERFLOW: look in the overflow table), 24..51 node
 * id, 52..53 domain + 1 (0: no trace here), 54..62 generation, 63 a mark (the block is a code
 * object whose sites are cached; set with or without a trace). Zero: nothing.
 */
#define TM_L1_ENTRIES 2048u
#define TM_L2_ENTRIES 65536u
#define TM_CHUNK_SHIFT 20
#define TM_SIZE_BITS 24
#define TM_SIZE_OVERFLOW ((1u << TM_SIZE_BITS) - 1)
#define TM_NODE_SHIFT 24
#define TM_NODE_BITS 28
#define TM_DOMAIN_SHIFT 52
#define TM_GEN_SHIFT 54
#define TM_GEN_BITS 9
#define TM_MARK_BIT (1ull << 63)

/* A native module, as it lay when it was seen: it may be gone, and another be at its place. */
#define TM_BUILD_ID_MAX 32u
struct tm_state_module {
    uint64_t start, end;    /* of its mappings */
    uint64_t bias;          /* its addresses less this are those of its file */
    uint64_t hdr_addr;      /* .eh_frame_hdr; 0: none */
    uint64_t path_addr;     /* NUL-terminated */
    uint64_t build_id_addr; /* of the note's bytes in the module itself; 0: it has none */
    uint32_t build_id_bytes;
    uint8_t build_id[TM_BUILD_ID_MAX];
    uint32_t reserved;
};

/* Sizes that do not fit: open addressing, capacity a power of two, key 0 is empty, key 1 deleted.
 */
struct tm_overflow_slot {
    _Atomic uint64_t addr;
    _Atomic uint64_t size_bytes;
};

enum tm_state_flags {
    TM_STATE_FREE_THREADED = 1u << 0,
    /* A 2.7 without PEP 445: the functions of the object domain alone are seen. */
    TM_STATE_REDIRECTED = 1u << 1,
};
/* What is not seen then, for people. */
#define TM_REDIRECT_UNSEEN                                                                         \
    "Python without PEP 445: only PyObject_Malloc, _Realloc and _Free are seen; not what it "      \
    "takes by malloc: ints, floats, tables of dicts and sets, items of lists"

/* Sizes of the structs above and how an entry is cut: a reader that was built with others must not
 * read on, even where nobody thought of TM_STATE_VERSION. */
#define TM_STATE_SHAPE                                                                             \
    ((uint64_t)sizeof(struct tm_site) | (uint64_t)sizeof(struct tm_node) << 8 |                    \
     (uint64_t)sizeof(struct tm_string) << 16 | (uint64_t)sizeof(struct tm_counter) << 24 |        \
     (uint64_t)sizeof(struct tm_state_module) << 32 | (uint64_t)TM_SIZE_BITS << 40 |               \
     (uint64_t)TM_DOMAIN_SHIFT << 48 | (uint64_t)TM_VEC_SHIFT << 56)

enum tm_tracing {
    TM_TRACING_OFF = 0,
    TM_TRACING_ON = 1,
};

struct tm_state {
    uint64_t magic;           /* TM_STATE_MAGIC */
    uint32_t version;         /* TM_STATE_VERSION */
    uint32_t size_bytes;      /* sizeof(struct tm_state) */
    int32_t pid;              /* of the process that set it up: a forked child finds its parent's */
    int32_t control_fd;       /* client end of the control channel; -1: no agent */
    _Atomic uint32_t tracing; /* enum tm_tracing */
    _Atomic uint32_t agent_alive; /* 1 while the agent thread serves the channel */
    uint32_t py_version;          /* PY_VERSION_HEX */
    uint32_t granule_shift;
    uint32_t traceback_limit;
    uint32_t generation;    /* of entries that are written now */
    uint64_t sample_bytes;  /* 0: every block */
    uint64_t enabled_ns;    /* CLOCK_REALTIME */
    uint64_t l1_addr;       /* u64[TM_L1_ENTRIES] */
    uint64_t overflow_addr; /* struct tm_overflow_slot[overflow_slots] */
    uint64_t overflow_slots;
    struct tm_vec strings;         /* struct tm_string */
    struct tm_vec sites;           /* struct tm_site; id 0 is not used */
    struct tm_vec nodes;           /* struct tm_node */
    struct tm_vec counters_gil;    /* struct tm_counter by site id; its count is not used */
    struct tm_vec counters_shared; /* the same, written by threads without the GIL */
    /* totals; live = gil + shared */
    _Atomic int64_t gil_bytes;
    _Atomic int64_t shared_bytes;
    _Atomic int64_t peak_bytes;
    _Atomic uint64_t dropped;   /* records that could not be kept */
    _Atomic uint64_t own_bytes; /* memory mapped by the payload for its store */
    uint32_t snapshots;         /* taken in this session */
    uint32_t native_depth;      /* native frames in tracebacks; 0: none */
    uint64_t control_inode; /* st_ino of control_fd: the number may stand for a descriptor of the
                               program's, if that closed ours */
    _Atomic int64_t shared_peak_bytes; /* the peak is the greater of the two, and at least what is
                                          traced now */
    uint64_t shape;                    /* TM_STATE_SHAPE */
    /* Native modules that were seen in this session: a table that never moves. Sites name them by
     * their place in it, plus 1 (tm_site.first_line). */
    uint64_t modules_addr;         /* struct tm_state_module[]; 0: none yet */
    _Atomic uint32_t module_count; /* those that are complete */
    uint32_t flags;                /* enum tm_state_flags */
    uint32_t layout_source;        /* enum tm_layout_source */
    uint32_t reserved_2;
    char python[32]; /* "3.11.7", NUL-terminated */
    /* own_bytes and own_free_bytes (of it, without data) are as the payload last measured them. */
    _Atomic uint64_t own_free_bytes;
    _Atomic uint64_t measured_ns; /* CLOCK_REALTIME; 0: never */
    uint64_t restarts;            /* struct tm_restarts of this session */
    uint64_t restart_lost_blocks;
    uint64_t reserved[2];
};
