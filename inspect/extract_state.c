// SPDX-License-Identifier: MIT
/*
 * Reads the payload's store from outside (format/state.h). The program may run
 * meanwhile, may have been stopped in the middle of a store, or may have died
 * in one. A table that is not where it is said to be is an error: without it
 * nothing is known. A single entry that cannot be true is left out and counted.
 *
 * The tables only grow while tracing is on, so that what a trace refers to is
 * there when the trace is; tracing that ends or begins anew meanwhile shows in
 * the state, which is read again at the end.
 */
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "format/state.h"
#include "inspect/error.h"
#include "inspect/extract_private.h"

#define SEGMENT_ELEMS (1u << TM_VEC_SHIFT)
#define ADDR_FORMAT "0x%" G_GINT64_MODIFIER "x"

struct reader {
    tm_target *target;
    uint64_t state_addr;
    struct tm_state state;
    struct tms_writer *writer;
    GArray *nodes; /* struct tms_node; a torn one has TORN_NODE as its site */
    GArray *sites; /* struct tms_site */
    struct tm_strings strings;
    GArray *stats;                     /* struct tms_stat */
    GArray *metrics;                   /* struct tms_metric */
    GArray *modules;                   /* struct tms_module */
    struct tm_overflow_slot *overflow; /* a copy */
    uint64_t traced_blocks;
    uint64_t torn;
    void *buffer; /* of buffer_bytes: for what cannot be viewed in place */
    size_t buffer_bytes;
};

/* No site has this id: site ids are below the number of sites, which is below 2^28. */
#define TORN_NODE (TMS_NO_ID - 1)

enum { MODULES_MAX = 1 << 16 }; /* more than a payload keeps: a count beyond is damage */

static bool damaged(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool damaged(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT,
                "the payload's state is damaged: %s", what);
    return false;
}

/* ---- tables ---- */

static const void *view(struct reader *r, uint64_t addr, size_t n_bytes)
{
    if (n_bytes > r->buffer_bytes) {
        r->buffer = g_realloc(r->buffer, n_bytes);
        r->buffer_bytes = n_bytes;
    }
    return tm_target_view(r->target, addr, r->buffer, n_bytes);
}

static bool vec_is_sane(const struct tm_vec *vec, size_t elem_bytes, uint32_t max)
{
    return vec->elem_bytes == elem_bytes && vec->dir_addr != 0 && vec->count <= max;
}

static bool check_vecs(struct reader *r, GError **error)
{
    const struct tm_state *state = &r->state;
    uint32_t max = TM_VEC_SEGMENTS << TM_VEC_SHIFT;
    if (!vec_is_sane(&state->strings, sizeof(struct tm_string), max) ||
        !vec_is_sane(&state->sites, sizeof(struct tm_site), max) ||
        !vec_is_sane(&state->nodes, sizeof(struct tm_node), max) ||
        !vec_is_sane(&state->counters_gil, sizeof(struct tm_counter), UINT32_MAX) ||
        !vec_is_sane(&state->counters_shared, sizeof(struct tm_counter), UINT32_MAX))
        return damaged(error, "a table has an impossible size");
    if (state->granule_shift != 3 && state->granule_shift != 4)
        return damaged(error, "blocks are aligned to 2^%u bytes", state->granule_shift);
    if ((state->overflow_slots & (state->overflow_slots - 1)) != 0 ||
        state->overflow_slots > 1ull << 32)
        return damaged(error, "the table of big blocks has %" G_GUINT64_FORMAT " slots",
                       state->overflow_slots);
    return true;
}

typedef bool (*elem_visitor)(struct reader *r, uint32_t index, const void *elem);

/* Calls visit for the elements [from, to); where a segment is missing that is an error. */
static bool vec_visit(struct reader *r, const struct tm_vec *vec, uint32_t from, uint32_t to,
                      const char *what, elem_visitor visit, GError **error)
{
    size_t segment_bytes = (size_t)SEGMENT_ELEMS * vec->elem_bytes;
    for (uint32_t i = from; i < to;) {
        uint64_t segment_addr, slot = i >> TM_VEC_SHIFT;
        uint32_t end = MIN(to, (uint32_t)((slot + 1) << TM_VEC_SHIFT));
        if (!tm_target_read(r->target, vec->dir_addr + slot * 8, &segment_addr, 8, what, error))
            return false;
        size_t skip_bytes = (size_t)(i & (SEGMENT_ELEMS - 1)) * vec->elem_bytes;
        size_t n_bytes = (size_t)(end - i) * vec->elem_bytes;
        const char *elems = segment_addr != 0 && skip_bytes + n_bytes <= segment_bytes
                                ? view(r, segment_addr + skip_bytes, n_bytes)
                                : NULL;
        if (elems == NULL)
            return damaged(error, "its %s from %u on are not at " ADDR_FORMAT, what, i,
                           segment_addr);
        for (; i < end; i++, elems += vec->elem_bytes)
            if (!visit(r, i, elems))
                return damaged(error, "there is too much of its %s", what);
    }
    return true;
}

/* Sites are checked later: while the program runs there may be more of them by then. */
static bool take_node(struct reader *r, uint32_t index, const void *elem)
{
    const struct tm_node *node = elem;
    struct tms_node out = {node->parent, node->site};
    if (index == 0) {
        out = (struct tms_node){TMS_NO_ID, TMS_NO_ID};
    } else if (node->parent >= index || node->site == 0 || node->site >= TORN_NODE ||
               g_array_index(r->nodes, struct tms_node, node->parent).site == TORN_NODE) {
        out = (struct tms_node){0, TORN_NODE};
    }
    g_array_append_val(r->nodes, out);
    return true;
}

static bool take_site(struct reader *r, uint32_t index, const void *elem)
{
    const struct tm_site *site = elem;
    bool native = (site->flags & TM_SITE_NATIVE) != 0;
    struct tms_site out = {.file = site->file,
                           .function = site->function,
                           .line = site->line,
                           .kind = native ? TMS_SITE_NATIVE : TMS_SITE_PYTHON,
                           .address = native ? site->address : 0,
                           .first_line = native ? 0 : site->first_line,
                           .module = native && site->first_line > 0 ? (uint32_t)site->first_line - 1
                                                                    : TMS_NO_ID};
    if (index == 0)
        out.file = out.function = TMS_NO_ID;
    g_array_append_val(r->sites, out);
    return true;
}

static bool take_string(struct reader *r, uint32_t index, const void *elem)
{
    const struct tm_string *string = elem;
    char small[4096];
    g_autofree char *large = NULL;
    (void)index;
    char *buffer = small;
    if (string->n_bytes > sizeof(small) && string->n_bytes <= TM_STRING_MAX_BYTES)
        buffer = large = g_malloc(string->n_bytes);
    const char *bytes = string->n_bytes <= TM_STRING_MAX_BYTES
                            ? tm_target_view(r->target, string->addr, buffer, string->n_bytes)
                            : NULL;
    if (bytes == NULL) {
        r->torn++;
        return tm_strings_add(&r->strings, "", 0) != TMS_NO_ID;
    }
    return tm_strings_add(&r->strings, bytes, string->n_bytes) != TMS_NO_ID;
}

/* Nodes that came since the last time. */
static bool more_nodes(struct reader *r, GError **error)
{
    uint32_t count = 0;
    uint64_t addr = r->state_addr + offsetof(struct tm_state, nodes.count);
    if (!tm_target_read(r->target, addr, &count, sizeof(count), "the number of tracebacks", error))
        return false;
    if (count > 1u << TM_NODE_BITS)
        return damaged(error, "it has %u tracebacks", count);
    return count <= r->nodes->len ||
           vec_visit(r, &r->state.nodes, r->nodes->len, count, "tracebacks", take_node, error);
}

/* The text of a path in the target; TMS_NO_ID where it is not one. */
static uint32_t take_path(struct reader *r, uint64_t addr)
{
    char path[PATH_MAX];
    size_t n_bytes = tm_target_read_some(r->target, addr, path, sizeof(path));
    const char *end = memchr(path, '\0', n_bytes);
    return end != NULL ? tm_strings_add(&r->strings, path, (size_t)(end - path)) : TMS_NO_ID;
}

static uint32_t take_build_id(struct reader *r, const struct tm_state_module *file)
{
    char text[2 * TM_BUILD_ID_MAX + 1];
    if (file->build_id_bytes == 0 || file->build_id_bytes > TM_BUILD_ID_MAX)
        return TMS_NO_ID;
    for (uint32_t i = 0; i < file->build_id_bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", file->build_id[i]);
    return tm_strings_add(&r->strings, text, 2 * file->build_id_bytes);
}

/* Sites name modules that were there before them. An entry that cannot be true stays as an empty
 * one, so that the others keep their numbers. */
static bool read_modules(struct reader *r, GError **error)
{
    struct tm_state now;
    if (!tm_target_read(r->target, r->state_addr, &now, sizeof(now), "the payload's state", error))
        return false;
    uint32_t count = atomic_load(&now.module_count);
    if (count > MODULES_MAX)
        return damaged(error, "it has %u modules", count);
    for (uint32_t i = 0; i < count; i++) {
        struct tm_state_module file;
        if (!tm_target_read(r->target, now.modules_addr + i * sizeof(file), &file, sizeof(file),
                            "the list of modules", error))
            return false;
        struct tms_module module = {.start = file.start,
                                    .end = file.end,
                                    .bias = file.bias,
                                    .path = take_path(r, file.path_addr),
                                    .build_id = take_build_id(r, &file)};
        if (module.path == TMS_NO_ID || file.build_id_bytes > TM_BUILD_ID_MAX ||
            module.start > module.end) {
            r->torn++;
            module = (struct tms_module){.path = TMS_NO_ID, .build_id = TMS_NO_ID};
        }
        g_array_append_val(r->modules, module);
    }
    return true;
}

/* After the traces: their sites and strings are complete by now. */
static bool read_tables(struct reader *r, GError **error)
{
    struct tm_state now;
    if (!tm_target_read(r->target, r->state_addr, &now, sizeof(now), "the payload's state", error))
        return false;
    if (now.enabled_ns != r->state.enabled_ns || now.l1_addr != r->state.l1_addr ||
        atomic_load(&now.tracing) != TM_TRACING_ON) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                    "tracing was turned off while it was read");
        return false;
    }
    r->state = now;
    if (!check_vecs(r, error) ||
        !vec_visit(r, &now.sites, 0, now.sites.count, "sites", take_site, error))
        return false;
    /* Sites name strings that were there before them. */
    uint64_t addr = r->state_addr + offsetof(struct tm_state, strings.count);
    uint32_t n_strings = now.strings.count;
    if (r->target->live && !tm_target_read(r->target, addr, &n_strings, sizeof(n_strings),
                                           "the number of strings", error))
        return false;
    if (n_strings > TM_VEC_SEGMENTS << TM_VEC_SHIFT)
        return damaged(error, "it has %u strings", n_strings);
    /* Paths and build-ids come behind the strings that sites name. */
    return vec_visit(r, &now.strings, 0, n_strings, "strings", take_string, error) &&
           read_modules(r, error);
}

static void check_references(struct reader *r)
{
    uint32_t n_strings = r->strings.ends->len;
    /* The store's own site 0 is the unknown one; where damage left none, it is made. */
    if (r->sites->len == 0)
        take_site(r, 0, &(struct tm_site){0});
    for (guint i = 1; i < r->nodes->len; i++) {
        struct tms_node *node = &g_array_index(r->nodes, struct tms_node, i);
        if (node->site != TORN_NODE && node->site < r->sites->len)
            continue;
        /* No trace was taken with a torn node; one whose site is missing shows an unknown frame. */
        r->torn++;
        *node = (struct tms_node){0, 0};
    }
    for (guint i = 0; i < r->sites->len; i++) {
        struct tms_site *site = &g_array_index(r->sites, struct tms_site, i);
        uint32_t *ids[] = {&site->file, &site->function};
        for (guint k = 0; k < G_N_ELEMENTS(ids); k++) {
            if (*ids[k] == TMS_NO_ID || *ids[k] < n_strings)
                continue;
            r->torn++;
            *ids[k] = TMS_NO_ID;
        }
        if (site->module != TMS_NO_ID && site->module >= r->modules->len) {
            r->torn++;
            site->module = TMS_NO_ID;
        }
    }
}

/* ---- traces ---- */

static bool load_overflow(struct reader *r, GError **error)
{
    size_t n_bytes = r->state.overflow_slots * sizeof(struct tm_overflow_slot);
    if (n_bytes == 0)
        return true;
    /* Big blocks are few; a table that is not there would make us allocate for nothing. */
    char probe;
    if (!tm_target_read(r->target, r->state.overflow_addr + n_bytes - 1, &probe, 1,
                        "the table of big blocks", error))
        return false;
    g_free(r->overflow);
    r->overflow = g_try_malloc(n_bytes);
    if (r->overflow == NULL)
        return damaged(error, "its table of big blocks has %zu bytes", n_bytes);
    return tm_target_read(r->target, r->state.overflow_addr, r->overflow, n_bytes,
                          "the table of big blocks", error);
}

static bool overflow_find(const struct reader *r, uint64_t addr, uint64_t *ret_bytes)
{
    uint64_t slots = r->overflow != NULL ? r->state.overflow_slots : 0;
    uint64_t i = addr * 0x9e3779b97f4a7c15ull >> 32; /* payload/store.c, overflow_start */
    for (uint64_t steps = 0; steps < slots; steps++, i++) {
        const struct tm_overflow_slot *slot = &r->overflow[i & (slots - 1)];
        if (slot->addr == addr) {
            *ret_bytes = slot->size_bytes;
            return true;
        }
        if (slot->addr == 0)
            return false;
    }
    return false;
}

/* A slot of a program that runs may have come after our copy of the table. */
static bool find_size(struct reader *r, uint64_t addr, uint64_t *ret_bytes)
{
    if (overflow_find(r, addr, ret_bytes))
        return *ret_bytes >= TM_SIZE_OVERFLOW;
    if (!r->target->live)
        return false;
    struct tm_state now;
    if (tm_target_read_some(r->target, r->state_addr, &now, sizeof(now)) != sizeof(now) ||
        now.l1_addr != r->state.l1_addr || (now.overflow_slots & (now.overflow_slots - 1)) != 0 ||
        now.overflow_slots > 1ull << 32)
        return false;
    uint64_t slots = r->state.overflow_slots;
    r->state.overflow_addr = now.overflow_addr;
    r->state.overflow_slots = now.overflow_slots;
    if (!load_overflow(r, NULL)) {
        r->state.overflow_slots = r->overflow != NULL ? slots : 0;
        return false;
    }
    return overflow_find(r, addr, ret_bytes) && *ret_bytes >= TM_SIZE_OVERFLOW;
}

static void take_entry(struct reader *r, uint64_t addr, uint64_t entry)
{
    uint32_t domain_plus_1 = (uint32_t)(entry >> TM_DOMAIN_SHIFT) & 3;
    uint32_t generation = (uint32_t)(entry >> TM_GEN_SHIFT) & ((1u << TM_GEN_BITS) - 1);
    struct tms_trace trace = {
        .address = addr,
        .size_bytes = entry & TM_SIZE_OVERFLOW,
        .node = (uint32_t)(entry >> TM_NODE_SHIFT) & ((1u << TM_NODE_BITS) - 1),
        .domain = (uint8_t)(domain_plus_1 - 1),
        .age = (uint16_t)(generation != 0 ? generation - 1 : 0),
    };
    if (domain_plus_1 == 0)
        return;
    if (trace.node >= r->nodes->len && (!r->target->live || !more_nodes(r, NULL)))
        trace.node = UINT32_MAX;
    if (trace.node >= r->nodes->len ||
        g_array_index(r->nodes, struct tms_node, trace.node).site == TORN_NODE ||
        (trace.size_bytes == TM_SIZE_OVERFLOW && !find_size(r, addr, &trace.size_bytes))) {
        r->torn++;
        return;
    }
    tms_writer_trace(r->writer, &trace);
}

static bool read_chunk(struct reader *r, uint64_t base_addr, uint64_t chunk_addr, uint64_t *copy,
                       GError **error)
{
    uint32_t shift = r->state.granule_shift, count = 1u << (TM_CHUNK_SHIFT - shift);
    const uint64_t *entries =
        tm_target_view(r->target, chunk_addr, copy, (size_t)count * sizeof(uint64_t));
    if (entries == NULL || (chunk_addr & 7) != 0)
        return damaged(error,
                       "the traces of addresses from " ADDR_FORMAT " on are not at " ADDR_FORMAT,
                       base_addr, chunk_addr);
    for (uint32_t i = 0; i < count; i++)
        if (entries[i] != 0)
            take_entry(r, base_addr + ((uint64_t)i << shift), entries[i]);
    return true;
}

static bool read_traces(struct reader *r, GError **error)
{
    uint64_t l1[TM_L1_ENTRIES];
    g_autofree uint64_t *l2 = g_malloc(TM_L2_ENTRIES * sizeof(uint64_t));
    g_autofree uint64_t *copy =
        g_malloc((sizeof(uint64_t) << TM_CHUNK_SHIFT) >> r->state.granule_shift);
    if (!tm_target_read(r->target, r->state.l1_addr, l1, sizeof(l1), "the map of traces", error))
        return false;
    for (uint64_t i = 0; i < TM_L1_ENTRIES; i++) {
        if (l1[i] == 0)
            continue;
        const uint64_t *table =
            tm_target_view(r->target, l1[i], l2, TM_L2_ENTRIES * sizeof(uint64_t));
        if (table == NULL || (l1[i] & 7) != 0)
            return damaged(error, "a part of the map of traces is not at " ADDR_FORMAT, l1[i]);
        for (uint64_t k = 0; k < TM_L2_ENTRIES; k++)
            if (table[k] != 0 &&
                !read_chunk(r, i << 36 | k << TM_CHUNK_SHIFT, table[k], copy, error))
                return false;
        if (r->writer->error != 0)
            break; /* tms_writer_end says it */
    }
    tms_writer_flush_traces(r->writer);
    return true;
}

/* ---- counters, facts ---- */

static bool add_counter(struct reader *r, uint32_t index, const void *elem)
{
    const struct tm_counter *counter = elem;
    struct tms_stat *stat = &g_array_index(r->stats, struct tms_stat, index);
    stat->live_bytes += (uint64_t)counter->live_bytes;
    stat->live_blocks += counter->total_blocks - counter->gone_blocks;
    stat->total_blocks += counter->total_blocks;
    stat->peak_bytes += (uint64_t)counter->peak_bytes;
    return true;
}

/* Both lanes' counters together. A counter that was being written can be off by one block, and
 * below zero: then it is not shown. */
static bool read_stats(struct reader *r, GError **error)
{
    uint32_t count = r->sites->len, kept = 0;
    uint64_t scale = r->state.sample_bytes != 0 ? TM_BLOCK_SCALE : 1;
    g_array_set_size(r->stats, count);
    if (!vec_visit(r, &r->state.counters_gil, 0, count, "counters", add_counter, error) ||
        !vec_visit(r, &r->state.counters_shared, 0, count, "counters", add_counter, error))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        struct tms_stat stat = g_array_index(r->stats, struct tms_stat, i);
        if (stat.total_blocks == 0)
            continue;
        if ((int64_t)stat.live_bytes < 0 || (int64_t)stat.live_blocks < 0 ||
            (int64_t)stat.peak_bytes < 0 || stat.live_blocks > stat.total_blocks) {
            r->torn++;
            continue;
        }
        r->traced_blocks += stat.live_blocks;
        stat.site = i != 0 ? i : TMS_NO_ID;
        stat.live_blocks /= scale;
        stat.total_blocks /= scale;
        g_array_index(r->stats, struct tms_stat, kept++) = stat;
    }
    r->traced_blocks /= scale;
    g_array_set_size(r->stats, kept);
    return true;
}

static void add_size(struct reader *r, const char *name, int64_t value)
{
    tm_extract_add_metric(r->metrics, &r->strings, name, TMS_METRIC_SIZE, value);
}

/* The two lanes' peaks do not see each other's last bytes, as in payload/tracer.c. */
static int64_t peak_of(const struct tm_state *state, int64_t traced_bytes)
{
    return MAX(MAX(state->peak_bytes, state->shared_peak_bytes), traced_bytes);
}

static void add_metrics(struct reader *r)
{
    struct tm_state *state = &r->state;
    int64_t traced_bytes = MAX(state->gil_bytes + state->shared_bytes, 0);
    uint64_t own_bytes = state->own_bytes, free_bytes = state->own_free_bytes;
    tm_extract_add_process_metrics(r->metrics, &r->strings, r->target);
    add_size(r, "tracemalloc.traced.size", traced_bytes);
    add_size(r, "tracemalloc.traced.max_size", peak_of(state, traced_bytes));
    tm_extract_add_metric(r->metrics, &r->strings, "tracemalloc.traces", TMS_METRIC_INT,
                          (int64_t)r->traced_blocks);
    if (state->measured_ns != 0) {
        add_size(r, "tracemalloc.module.size", (int64_t)own_bytes);
        add_size(r, "tracemalloc.module.free", (int64_t)free_bytes);
        if (own_bytes != 0)
            tm_extract_add_percent(r->metrics, &r->strings, "tracemalloc.module.fragmentation",
                                   (double)free_bytes / (double)own_bytes);
    }
    tm_extract_add_metric(r->metrics, &r->strings, "tracemalloc.dropped", TMS_METRIC_INT,
                          (int64_t)state->dropped);
}

static void write_facts(struct reader *r)
{
    struct tms_writer *w = r->writer;
    struct tm_state *state = &r->state;
    bool redirected = (state->flags & TM_STATE_REDIRECTED) != 0;
    state->python[sizeof(state->python) - 1] = '\0';
    tms_writer_begin(w, TMS_FACTS);
    tms_writer_fact_i64(w, "pid", r->target->facts.pid ? r->target->facts.pid : state->pid);
    tm_extract_process_facts(w, r->target, state->python);
    tms_writer_fact_i64(w, "free_threaded", (state->flags & TM_STATE_FREE_THREADED) != 0);
    tms_writer_fact_i64(w, "traceback_limit", state->traceback_limit);
    tms_writer_fact(w, "domains", redirected ? "obj" : "raw,mem,obj");
    if (redirected)
        tms_writer_fact(w, "unseen", TM_REDIRECT_UNSEEN);
    tms_writer_fact_i64(w, "enabled_ns", (int64_t)state->enabled_ns);
    tms_writer_fact_i64(w, "native", state->native_depth);
    tms_writer_fact_i64(w, "sample_bytes", (int64_t)state->sample_bytes);
    tms_writer_fact_i64(w, "dropped", (int64_t)state->dropped);
    if (state->measured_ns != 0)
        tms_writer_fact_i64(w, "measured_ns", (int64_t)state->measured_ns);
    if (state->restarts != 0) {
        tms_writer_fact_i64(w, "restarts", (int64_t)state->restarts);
        tms_writer_fact_i64(w, "restart_lost_blocks", (int64_t)state->restart_lost_blocks);
    }
    tms_writer_fact(w, "layout", tm_layout_source_text(state->layout_source));
    tms_writer_fact_i64(w, "torn", (int64_t)r->torn);
    tms_writer_finish(w);
}

static bool read_all(struct reader *r, GError **error)
{
    if (!check_vecs(r, error) || !load_overflow(r, error) || !more_nodes(r, error) ||
        !read_traces(r, error) || !read_tables(r, error))
        return false;
    check_references(r);
    if (!read_stats(r, error))
        return false;
    add_metrics(r);
    tm_strings_write(&r->strings, r->writer);
    tm_extract_write_array(r->writer, TMS_SITES, r->sites);
    tm_extract_write_array(r->writer, TMS_NODES, r->nodes);
    if (r->modules->len > 0)
        tm_extract_write_array(r->writer, TMS_MODULES, r->modules);
    tm_extract_write_array(r->writer, TMS_METRICS, r->metrics);
    tm_extract_write_array(r->writer, TMS_STATS, r->stats);
    write_facts(r);
    return true;
}

/* A forked child has the state of its parent without the tables, which are not inherited. */
static bool is_inherited(const struct reader *r)
{
    char byte;
    return r->target->facts.pid != 0 && r->target->facts.pid != r->state.pid &&
           tm_target_read_some(r->target, r->state.l1_addr, &byte, 1) != 1;
}

bool tm_extract_state(tm_target *target, uint64_t state_addr, int fd, struct tm_extract_result *ret,
                      GError **error)
{
    struct reader r = {.target = target, .state_addr = state_addr};
    if (!tm_target_read(target, state_addr, &r.state, sizeof(r.state), "the payload's state",
                        error)) {
        g_prefix_error(error, "%s: ", target->name);
        return false;
    }
    if (is_inherited(&r)) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                    "%s: not traced; it was forked from process %d, which was", target->name,
                    r.state.pid);
        return false;
    }
    r.writer = tm_extract_writer_new(target, fd, r.state.granule_shift == 3 ? 3 : 4);
    r.nodes = g_array_new(FALSE, FALSE, sizeof(struct tms_node));
    r.sites = g_array_new(FALSE, FALSE, sizeof(struct tms_site));
    r.stats = g_array_new(FALSE, TRUE, sizeof(struct tms_stat));
    r.metrics = g_array_new(FALSE, FALSE, sizeof(struct tms_metric));
    r.modules = g_array_new(FALSE, FALSE, sizeof(struct tms_module));
    tm_strings_init(&r.strings);
    bool ok = read_all(&r, error);
    if (!ok)
        g_prefix_error(error, "%s: ", target->name);
    ok = ok && tm_extract_writer_end(r.writer, ret, error);
    ret->origin = "tm";
    ret->torn = r.torn;
    g_array_unref(r.nodes);
    g_array_unref(r.sites);
    g_array_unref(r.stats);
    g_array_unref(r.metrics);
    g_array_unref(r.modules);
    tm_strings_done(&r.strings);
    g_free(r.overflow);
    g_free(r.buffer);
    g_free(r.writer);
    return ok;
}
