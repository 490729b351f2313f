// SPDX-License-Identifier: MIT
/*
 * The snapshot file (.tms), byte by byte. docs/FORMAT.md is its prose.
 *
 * Little-endian. A file is struct tms_header, then sections, each struct
 * tms_section_header and its payload, padded with zeros to 8 bytes; the last
 * section is TMS_END and nothing follows it. Every section has a CRC-32C. A
 * reader skips section types that it does not know. Fields marked "id" index
 * the section of that noun; TMS_NO_ID is "none".
 */
#pragma once

#include <stdint.h>

#define TMS_MAGIC "\x89TMS\r\n\x1a\n" /* 8 bytes, NUL not included */
#define TMS_VERSION 1u
#define TMS_NO_ID 0xffffffffu

struct tms_header {
    uint8_t magic[8];
    uint32_t version;      /* TMS_VERSION; a reader refuses a greater one */
    uint32_t header_bytes; /* sizeof(struct tms_header): sections start there */
    uint64_t timestamp_ns; /* CLOCK_REALTIME of the moment that the snapshot shows */
    uint32_t crc32c;       /* of the 24 bytes before this field */
    uint32_t reserved;
};

enum tms_section_type {
    TMS_FACTS = 1,   /* NUL-terminated "key=value" strings, one after the other */
    TMS_STRINGS = 2, /* u32 count; u32 end_offset[count]; bytes: string i is [end[i-1], end[i]) */
    TMS_SITES = 3,   /* struct tms_site[] */
    TMS_NODES = 4,   /* struct tms_node[]: tracebacks as a prefix tree */
    TMS_TRACES = 5,  /* a row group, any number of them: struct tms_traces and its columns */
    TMS_STATS = 6,   /* struct tms_stat[]: counters by site */
    TMS_METRICS = 7, /* struct tms_metric[] */
    TMS_MODULES = 8, /* struct tms_module[]: files mapped with execute permission */
    TMS_TYPES = 9,   /* u32 string id[]: names that the type column indexes */
    TMS_END = 0xffffffffu, /* struct tms_end */
};

struct tms_section_header {
    uint32_t type;
    uint32_t crc32c;        /* of the four bytes of `type`, then the payload without padding */
    uint64_t payload_bytes; /* padding not included; TMS_UNFINISHED while it is being written */
};
/* Left behind by a writer that was stopped inside a section: the file is truncated there. */
#define TMS_UNFINISHED UINT64_MAX

/* A place in code: what one frame shows. */
enum tms_site_kind {
    TMS_SITE_PYTHON = 0,
    TMS_SITE_NATIVE = 1, /* address set; file is the module's path or none, function none */
};
struct tms_site {
    uint32_t file;      /* string id; none: unknown */
    uint32_t function;  /* string id; qualified where Python gives it (3.11 on); none: unknown */
    int32_t line;       /* < 1: unknown */
    uint32_t kind;      /* enum tms_site_kind in the low 8 bits; the rest 0 */
    uint64_t address;   /* native: the return address in the process; Python: 0 */
    int32_t first_line; /* of the function; < 1: unknown */
    uint32_t module;    /* native: index of TMS_MODULES; none: in no known module */
};

/* Node 0 is the empty traceback: parent and site are none. A traceback is a
 * node: its site is the most recent frame, its parent the caller's traceback.
 * parent < own index, always. */
struct tms_node {
    uint32_t parent;
    uint32_t site;
};

enum tms_domain { TMS_DOMAIN_RAW = 0, TMS_DOMAIN_MEM = 1, TMS_DOMAIN_OBJ = 2 };

/* A row group: `count` traces, ascending by address. After the struct come the
 * columns in this order, each `*_bytes` long. "svb" is the StreamVByte layout:
 * (count + 3) / 4 control bytes, two bits a value from the low bits up (0: one
 * byte ... 3: four bytes), then the data bytes. */
struct tms_traces {
    uint32_t count;         /* 1 .. TMS_GROUP_MAX */
    uint32_t flags;         /* enum tms_traces_flags */
    uint64_t first_address; /* of the first trace */
    uint32_t granule_shift; /* addresses are multiples of 1 << granule_shift from first_address;
                               at most TMS_GRANULE_SHIFT_MAX */
    uint32_t address_bytes; /* svb: difference to the previous trace in granules; the first is 0 */
    uint32_t node_bytes;    /* svb: node id */
    uint32_t size_bytes;    /* svb: size in bytes; with TMS_TRACES_WIDE: u64[count] */
    uint32_t domain_bytes;  /* 0: all have the domain in `domain`; else u8[count] */
    uint32_t age_bytes;     /* 0: all have the age in `age`; else svb */
    uint32_t type_bytes;    /* 0: no types; else svb of index + 1 into TMS_TYPES, 0: unknown */
    uint32_t thread_bytes;  /* 0: no threads; else svb of the thread's id */
    uint32_t domain;
    uint32_t age; /* how many snapshots of this session had begun when the block was
                     allocated; 0: before the first */
};
enum tms_traces_flags {
    TMS_TRACES_WIDE = 1u << 0, /* some size needs more than 32 bits */
};
#define TMS_GROUP_MAX 65536u
/* A group's addresses then span less than 2^64 whatever its columns say. */
#define TMS_GRANULE_SHIFT_MAX 16u

/* Counters of one site (the most recent frame), since tracing was enabled. */
struct tms_stat {
    uint32_t site; /* site id; none: blocks whose traceback is empty */
    uint32_t reserved;
    uint64_t live_bytes;
    uint64_t live_blocks;
    uint64_t total_blocks; /* allocations, reallocs included */
    uint64_t peak_bytes;   /* highest live_bytes */
};

enum tms_metric_format { TMS_METRIC_INT = 0, TMS_METRIC_SIZE = 1, TMS_METRIC_PERCENT = 2 };
struct tms_metric {
    uint32_t name;   /* string id */
    uint32_t format; /* enum tms_metric_format */
    union {
        int64_t i; /* INT, SIZE (bytes) */
        double f;  /* PERCENT: 1.0 is 100 % */
    } value;
};

struct tms_module {
    uint64_t start;    /* address of the first mapping */
    uint64_t end;      /* address behind the last one */
    uint64_t bias;     /* load bias: run-time address less the file's p_vaddr */
    uint32_t path;     /* string id */
    uint32_t build_id; /* string id, of lower-case hex digits; none: no build-id */
};

struct tms_end {
    uint64_t sections;     /* sections before this one */
    uint64_t traces;       /* sum of all row groups' counts */
    uint64_t traced_bytes; /* sum of all sizes */
};

_Static_assert(sizeof(struct tms_header) == 32, ".tms format");
_Static_assert(sizeof(struct tms_section_header) == 16, ".tms format");
_Static_assert(sizeof(struct tms_site) == 32, ".tms format");
_Static_assert(sizeof(struct tms_node) == 8, ".tms format");
_Static_assert(sizeof(struct tms_traces) == 56, ".tms format");
_Static_assert(sizeof(struct tms_stat) == 40, ".tms format");
_Static_assert(sizeof(struct tms_metric) == 16, ".tms format");
_Static_assert(sizeof(struct tms_module) == 32, ".tms format");
_Static_assert(sizeof(struct tms_end) == 24, ".tms format");

/*
 * TMS_FACTS keys. All optional but those marked *.
 *   pid*  ppid  start_time_ns (CLOCK_REALTIME)  cmdline (arguments joined by spaces)
 *   python* ("3.11.7")  implementation ("cpython")  free_threaded (0/1)
 *   traceback_limit*  traces* (0/1)  domains ("raw,mem,obj")
 *   enabled_ns (CLOCK_REALTIME when tracing was enabled)
 *   sample_bytes (0: every block; else the mean bytes between two samples)
 *   unseen (what of the program's memory this way of tracing cannot see; absent: nothing)
 *   dropped  counter (of the session's snapshots, from 1)  pause_ns  tool ("tm 0.1.0")
 *   reason ("delay", "memory", "request", "exit", "passive", "api")
 *   restarts, restart_lost_blocks (how often another tool had taken the hooks out in this session,
 *   so that tracing began anew, and how many traces were forgotten in that)
 *   torn (passive reads: entries that were not trusted)
 *   measured_ns (passive reads: CLOCK_REALTIME when the payload last measured its own memory)
 *   native (depth; 0: none)  layout ("debug-offsets", "dwarf", "table")
 */
