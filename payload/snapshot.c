// SPDX-License-Identifier: MIT
/*
 * How a snapshot is consistent although the program runs while it is written:
 *
 *   1. The lanes stand still for a moment. The generation is advanced; totals
 *      and counters are copied. All entries of older generations are the
 *      snapshot.
 *   2. The program runs. The scan reads the shadow map chunk by chunk and passes
 *      old entries on to the file. A hook that takes an old entry away logs it
 *      first, whether or not the scan has passed it.
 *   3. The lanes stand still again: the logs are complete now. What they hold
 *      and the scan has not seen is added. A bitmap by chunk says what it saw.
 *
 * So the pause does not depend on the number of traces, and the extra memory is
 * one bit a granule of heap and the log.
 */
#include "payload/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "format/tms_writer.h"
#include "payload/clock.h"
#include "payload/hooks.h"
#include "payload/mem.h"
#include "payload/native/native.h"
#include "payload/pyapi.h"
#include "payload/redirect.h"
#include "payload/store.h"
#include "payload/tracer.h"

struct chunk_seen {
    uint64_t base_addr;
    uint64_t *bits; /* one by granule */
};

struct late {
    uint64_t addr;
    uint64_t entry;
    uint64_t size_bytes;
};

struct snapshot {
    struct tms_writer *writer;
    const struct tm_snapshot_options *options;
    struct tm_snapshot_result *result;
    uint64_t timestamp_ns, pause_ns;
    uint32_t generation; /* entries older than this belong to the snapshot */
    uint32_t n_strings, n_sites, n_nodes;
    struct tm_totals totals;
    struct tm_restarts restarts;
    struct tm_counter *counters; /* 2 * n_sites: GIL lane, then shared lane */
    struct chunk_seen *chunks;
    uint32_t n_chunks, chunk_capacity;
    struct late *late; /* entries whose size must be looked up when the program stands still */
    uint32_t n_late, late_capacity;
    struct tm_undo_log undo[TM_LANES];
    int pagemap_fd; /* -1: not to be had */
    bool short_of_memory;
};

/* Outermost: taken without the GIL. The store has room for one snapshot at a time. */
static pthread_mutex_t snapshot_lock = PTHREAD_MUTEX_INITIALIZER;

static int fail(struct tm_snapshot_result *result, int error, const char *message)
{
    snprintf(result->message, sizeof(result->message), "%s", message);
    return error;
}

/* ---- the first moment ---- */

static size_t bits_bytes(void)
{
    return tm_shadow.chunk_entries / 8;
}

static bool snapshot_alloc(struct snapshot *s)
{
    s->writer = tm_mem_map_sparse(sizeof(*s->writer));
    return s->writer != NULL;
}

static void snapshot_free(struct snapshot *s)
{
    for (uint32_t i = 0; i < s->n_chunks; i++)
        tm_mem_unmap_sparse(s->chunks[i].bits, bits_bytes());
    tm_mem_unmap_sparse(s->chunks, s->chunk_capacity * sizeof(*s->chunks));
    tm_mem_unmap_sparse(s->counters, (size_t)s->n_sites * 2 * sizeof(*s->counters));
    tm_mem_unmap_sparse(s->late, (size_t)s->late_capacity * sizeof(*s->late));
    tm_mem_unmap_sparse(s->writer, sizeof(*s->writer));
    for (int lane = 0; lane < TM_LANES; lane++)
        tm_store_undo_free(&s->undo[lane]);
}

static void copy_counters(struct snapshot *s)
{
    s->counters = tm_mem_map_sparse((size_t)s->n_sites * 2 * sizeof(*s->counters));
    if (s->counters == NULL) {
        s->short_of_memory = true;
        return;
    }
    for (uint32_t i = 0; i < s->n_sites; i++) {
        s->counters[2 * i] = *tm_store_counter(TM_LANE_GIL, i);
        s->counters[2 * i + 1] = *tm_store_counter(TM_LANE_SHARED, i);
    }
}

/* The lanes stand still. Only now can the chunks with entries of the snapshot be counted. */
static void alloc_chunks(struct snapshot *s)
{
    s->chunk_capacity = atomic_load(&tm_shadow.chunks_made);
    s->chunks = tm_mem_map_sparse(s->chunk_capacity * sizeof(*s->chunks));
    if (s->chunks == NULL && s->chunk_capacity != 0)
        s->short_of_memory = true;
}

/* GIL. Works out what the snapshot holds. */
static int begin(struct snapshot *s)
{
    int gil;
    if (tm_hooks_gil_take(&gil) < 0)
        return fail(s->result, -ENODEV, "the Python interpreter is shutting down");
    uint64_t start_ns = tm_clock_monotonic_ns();
    int error = 0;
    if (!tm_tracer_is_enabled()) {
        error = fail(s->result, -ENODEV, "tracing is off");
    } else if (tm_tracer_restart_if_displaced()) {
        error = fail(
            s->result, -ENOLINK,
            "another tool had taken tm's hooks out: all traces were forgotten, as they were no "
            "longer true, and tracing begins anew");
    } else if (!tm_tracer_hold()) {
        error = fail(s->result, -ENODEV, "tracing is off");
    } else {
        tm_store_stop();
        s->timestamp_ns = tm_clock_real_ns();
        s->n_nodes = tm_vec_count(&tm_state_export.nodes);
        s->n_sites = tm_vec_count(&tm_state_export.sites);
        s->n_strings = tm_vec_count(&tm_state_export.strings);
        s->totals = tm_tracer_totals();
        s->restarts = tm_tracer_restarts();
        copy_counters(s);
        if (s->options->with_traces) {
            alloc_chunks(s);
            tm_store_snapshot_begin();
            s->generation = tm_store.generation;
            tm_hooks_choose_half();
        }
        tm_store_go();
    }
    s->pause_ns = tm_clock_monotonic_ns() - start_ns;
    tm_hooks_gil_drop(gil);
    return error;
}

/* GIL. The logs are complete, and deferred sizes are looked up: of a block that lives still, the
 * size in the table is the old one; of one that was logged, the log has it. */
static int end(struct snapshot *s)
{
    int gil;
    if (tm_hooks_gil_take(&gil) < 0)
        return fail(s->result, -ENODEV, "the Python interpreter is shutting down");
    uint64_t start_ns = tm_clock_monotonic_ns();
    tm_store_stop();
    tm_store_snapshot_end(s->undo);
    tm_hooks_choose_half();
    for (uint32_t i = 0; i < s->n_late; i++)
        s->late[i].size_bytes = tm_store_overflow_find(s->late[i].addr);
    tm_store_go();
    uint64_t pause_ns = tm_clock_monotonic_ns() - start_ns;
    if (pause_ns > s->pause_ns)
        s->pause_ns = pause_ns;
    tm_hooks_gil_drop(gil);
    return 0;
}

/* ---- the scan ---- */

static void emit(struct snapshot *s, uint64_t addr, uint64_t entry, uint64_t size_bytes)
{
    struct tms_trace trace = {
        .address = addr,
        .size_bytes = size_bytes,
        .node = tm_entry_node(entry),
        .domain = (uint8_t)(tm_entry_domain_plus_1(entry) - 1),
        .age = (uint16_t)(tm_entry_generation(entry) ? tm_entry_generation(entry) - 1 : 0),
    };
    tms_writer_trace(s->writer, &trace);
}

static void defer(struct snapshot *s, uint64_t addr, uint64_t entry)
{
    if (s->n_late == s->late_capacity) {
        uint32_t capacity = s->late_capacity ? s->late_capacity * 2 : 1024;
        struct late *late = tm_mem_map_sparse((size_t)capacity * sizeof(*late));
        if (late == NULL) {
            s->short_of_memory = true;
            return;
        }
        if (s->n_late != 0)
            memcpy(late, s->late, (size_t)s->n_late * sizeof(*late));
        tm_mem_unmap_sparse(s->late, (size_t)s->late_capacity * sizeof(*late));
        s->late = late;
        s->late_capacity = capacity;
    }
    s->late[s->n_late++] = (struct late){addr, entry, 0};
}

enum { PAGE_ENTRIES = TM_MEM_PAGE_BYTES / sizeof(uint64_t) };

/* Which pages of a chunk have ever been written: those that the program's large blocks span have
 * not, and reading them would make page tables for nothing. A page that is written first after this
 * look holds young entries only. /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst):
 * bit 63 present, bit 62 swapped; mincore does not tell the second. */
static void find_written_pages(const struct snapshot *s, const uint64_t *entries,
                               uint64_t ret[TM_SHADOW_CHUNK_PAGES])
{
    size_t n_bytes = tm_shadow.chunk_entries / PAGE_ENTRIES * sizeof(*ret);
    off_t at = (off_t)((uint64_t)entries / TM_MEM_PAGE_BYTES * sizeof(*ret));
    if (s->pagemap_fd < 0 || pread(s->pagemap_fd, ret, n_bytes, at) != (ssize_t)n_bytes)
        memset(ret, 0xff, n_bytes);
}

static void scan_chunk(void *data, uint64_t base_addr, uint64_t *entries)
{
    struct snapshot *s = data;
    uint64_t written[TM_SHADOW_CHUNK_PAGES];
    if (s->short_of_memory || s->n_chunks == s->chunk_capacity)
        return; /* a chunk that came after the count holds young entries only */
    struct chunk_seen *seen = &s->chunks[s->n_chunks];
    find_written_pages(s, entries, written);
    for (uint32_t i = 0; i < tm_shadow.chunk_entries; i++) {
        if (i % PAGE_ENTRIES == 0 && written[i / PAGE_ENTRIES] >> 62 == 0) {
            i += PAGE_ENTRIES - 1;
            continue;
        }
        uint64_t entry = __atomic_load_n(&entries[i], __ATOMIC_RELAXED);
        if (entry == 0 || tm_entry_domain_plus_1(entry) == 0 ||
            tm_entry_generation(entry) == s->generation)
            continue;
        uint64_t addr = base_addr + ((uint64_t)i << tm_shadow.granule_shift);
        if (tm_entry_size(entry) == TM_SIZE_OVERFLOW) {
            defer(s, addr, entry);
            continue;
        }
        if (seen->bits == NULL) {
            *seen = (struct chunk_seen){base_addr, tm_mem_map_sparse(bits_bytes())};
            if (seen->bits == NULL) {
                s->short_of_memory = true;
                return;
            }
        }
        seen->bits[i / 64] |= 1ull << (i % 64);
        emit(s, addr, entry, tm_entry_size(entry));
    }
    if (seen->bits != NULL)
        s->n_chunks++;
}

static bool was_seen(const struct snapshot *s, uint64_t addr)
{
    uint64_t base = addr & ~(((uint64_t)1 << TM_CHUNK_SHIFT) - 1);
    uint32_t low = 0, high = s->n_chunks;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->chunks[middle].base_addr < base)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == s->n_chunks || s->chunks[low].base_addr != base)
        return false;
    uint64_t i = (addr - base) >> tm_shadow.granule_shift;
    return s->chunks[low].bits[i / 64] >> (i % 64) & 1;
}

static bool in_undo(const struct snapshot *s, uint64_t addr)
{
    for (int lane = 0; lane < TM_LANES; lane++)
        for (uint32_t i = 0; i < s->undo[lane].used; i++)
            if (tm_entry_size(s->undo[lane].records[i].entry) == TM_SIZE_OVERFLOW &&
                s->undo[lane].records[i].addr == addr)
                return true;
    return false;
}

/*
 * What the logs hold and the scan has not seen. The order in a log is that of time; the writer
 * starts a new row group whenever addresses fall. An address is logged once at most: what comes
 * there afterwards is young.
 */
static void emit_late(struct snapshot *s)
{
    for (uint32_t i = 0; i < s->n_late; i++) {
        if (!in_undo(s, s->late[i].addr))
            emit(s, s->late[i].addr, s->late[i].entry, s->late[i].size_bytes);
    }
    tms_writer_flush_traces(s->writer);
    for (int lane = 0; lane < TM_LANES; lane++) {
        if (s->undo[lane].lost)
            s->short_of_memory = true;
        for (uint32_t i = 0; i < s->undo[lane].used; i++) {
            struct tm_undo *undo = &s->undo[lane].records[i];
            if (!was_seen(s, undo->addr))
                emit(s, undo->addr, undo->entry, undo->size_bytes);
        }
        tms_writer_flush_traces(s->writer);
    }
}

/* ---- the other sections ---- */

static void write_strings(struct snapshot *s)
{
    uint32_t end_offset = 0;
    tms_writer_begin(s->writer, TMS_STRINGS);
    /* The metrics' names come behind the interned strings. */
    uint32_t total = s->n_strings;
    tms_writer_bytes(s->writer, &total, sizeof(total));
    for (uint32_t i = 0; i < s->n_strings; i++) {
        end_offset += tm_intern_string_at(i)->n_bytes;
        tms_writer_bytes(s->writer, &end_offset, sizeof(end_offset));
    }
    for (uint32_t i = 0; i < s->n_strings; i++) {
        struct tm_string *string = tm_intern_string_at(i);
        tms_writer_bytes(s->writer, (const void *)string->addr, string->n_bytes);
    }
    tms_writer_finish(s->writer);
}

static void write_sites(struct snapshot *s)
{
    tms_writer_begin(s->writer, TMS_SITES);
    for (uint32_t i = 0; i < s->n_sites; i++) {
        struct tm_site *site = tm_intern_site_at(i);
        bool native = site->flags & TM_SITE_NATIVE;
        struct tms_site out = {
            .file = site->file,
            .function = site->function,
            .line = site->line,
            .kind = native ? TMS_SITE_NATIVE : TMS_SITE_PYTHON,
            .address = site->address,
            .first_line = native ? 0 : site->first_line,
            .module = native && site->first_line > 0 ? (uint32_t)site->first_line - 1 : TMS_NO_ID,
        };
        tms_writer_bytes(s->writer, &out, sizeof(out));
    }
    tms_writer_finish(s->writer);
}

static void write_nodes(struct snapshot *s)
{
    tms_writer_begin(s->writer, TMS_NODES);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        struct tm_node *node = tm_intern_node_at(i);
        struct tms_node out = {node->parent, node->site ? node->site : TMS_NO_ID};
        tms_writer_bytes(s->writer, &out, sizeof(out));
    }
    tms_writer_finish(s->writer);
}

static void write_stats(struct snapshot *s)
{
    uint64_t scale = tm_store.sample_mean_bytes != 0 ? TM_BLOCK_SCALE : 1;
    tms_writer_begin(s->writer, TMS_STATS);
    for (uint32_t i = 0; i < s->n_sites && s->counters != NULL; i++) {
        const struct tm_counter *a = &s->counters[2 * i], *b = a + 1;
        uint64_t total = a->total_blocks + b->total_blocks;
        if (total == 0)
            continue;
        struct tms_stat out = {
            .site = i ? i : TMS_NO_ID,
            .live_bytes = (uint64_t)(a->live_bytes + b->live_bytes),
            .live_blocks = (total - a->gone_blocks - b->gone_blocks) / scale,
            .total_blocks = total / scale,
            .peak_bytes = (uint64_t)(a->peak_bytes + b->peak_bytes),
        };
        tms_writer_bytes(s->writer, &out, sizeof(out));
    }
    tms_writer_finish(s->writer);
}

static ssize_t read_file(const char *path, char *buf, size_t buf_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n_bytes = fd >= 0 ? read(fd, buf, buf_bytes - 1) : -1;
    if (fd >= 0)
        close(fd);
    buf[n_bytes > 0 ? n_bytes : 0] = '\0';
    return n_bytes;
}

static const char *skip_fields(const char *text, int n)
{
    for (; n > 0 && *text != '\0'; n--) {
        text += strcspn(text, " ");
        text += strspn(text, " ");
    }
    return text;
}

static uint64_t read_number(const char *text)
{
    uint64_t number = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        number = number * 10 + (uint64_t)(*text - '0');
    return number;
}

static void write_process_facts(struct snapshot *s)
{
    char text[2048];
    ssize_t n_bytes = read_file("/proc/thread-self/cmdline", text, sizeof(text));
    for (ssize_t i = 0; i + 1 < n_bytes; i++)
        if (text[i] == '\0')
            text[i] = ' ';
    tms_writer_fact(s->writer, "cmdline", text);
    if (read_file("/proc/self/stat", text, sizeof(text)) > 0 && strrchr(text, ')') != NULL) {
        /* Field 22 of proc(5): ticks after boot, the third is the first behind the name. */
        uint64_t ticks = read_number(skip_fields(strrchr(text, ')') + 2, 19));
        uint64_t boot_ns = tm_clock_real_ns() - tm_clock_ns(CLOCK_BOOTTIME);
        long hz = sysconf(_SC_CLK_TCK);
        if (hz > 0)
            tms_writer_fact_i64(s->writer, "start_time_ns",
                                (int64_t)(boot_ns + ticks * (1000000000u / (uint64_t)hz)));
    }
}

static void write_facts(struct snapshot *s)
{
    struct tms_writer *w = s->writer;
    tms_writer_begin(w, TMS_FACTS);
    tms_writer_fact_i64(w, "pid", getpid());
    tms_writer_fact_i64(w, "ppid", getppid());
    write_process_facts(s);
    tms_writer_fact(w, "python", tm_py.version);
    tms_writer_fact(w, "implementation", "cpython");
    tms_writer_fact_i64(w, "free_threaded", tm_py.free_threaded);
    tms_writer_fact_i64(w, "traceback_limit", tm_state_export.traceback_limit);
    tms_writer_fact_i64(w, "traces", s->options->with_traces);
    tms_writer_fact(w, "domains", tm_py.redirected ? "obj" : "raw,mem,obj");
    if (tm_py.redirected)
        tms_writer_fact(w, "unseen", TM_REDIRECT_UNSEEN);
    tms_writer_fact_i64(w, "enabled_ns", (int64_t)tm_state_export.enabled_ns);
    tms_writer_fact_i64(w, "native", tm_state_export.native_depth);
    tms_writer_fact_i64(w, "sample_bytes", (int64_t)tm_state_export.sample_bytes);
    tms_writer_fact_i64(w, "dropped", (int64_t)s->totals.dropped);
    tms_writer_fact_i64(w, "counter", s->options->counter);
    tms_writer_fact_i64(w, "pause_ns", (int64_t)s->pause_ns);
    tms_writer_fact(w, "tool", "tm " TM_VERSION);
    if (s->options->reason != NULL)
        tms_writer_fact(w, "reason", s->options->reason);
    if (s->restarts.count != 0) {
        tms_writer_fact_i64(w, "restarts", (int64_t)s->restarts.count);
        tms_writer_fact_i64(w, "restart_lost_blocks", (int64_t)s->restarts.lost_blocks);
    }
    tms_writer_fact(w, "layout", tm_tracer_layout_source());
    tms_writer_finish(w);
}

struct metric {
    const char *name;
    enum tms_metric_format format;
    double percent;
    int64_t value;
};

/* Metrics name their strings, which the interned ones do not hold: they are written as a section
 * of their own right behind, with ids that continue the table. */
static uint32_t collect_metrics(struct snapshot *s, struct metric ret[16])
{
    uint32_t n = 0;
    char text[256];
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (read_file("/proc/thread-self/statm", text, sizeof(text)) > 0) {
        ret[n++] = (struct metric){"process_memory.rss", TMS_METRIC_SIZE, 0,
                                   (int64_t)(read_number(skip_fields(text, 1)) * page)};
        ret[n++] = (struct metric){"process_memory.vms", TMS_METRIC_SIZE, 0,
                                   (int64_t)(read_number(text) * page)};
    }
    const struct tm_totals *t = &s->totals;
    ret[n++] =
        (struct metric){"tracemalloc.traced.size", TMS_METRIC_SIZE, 0, (int64_t)t->traced_bytes};
    ret[n++] =
        (struct metric){"tracemalloc.traced.max_size", TMS_METRIC_SIZE, 0, (int64_t)t->peak_bytes};
    if (s->options->with_traces)
        ret[n++] =
            (struct metric){"tracemalloc.traces", TMS_METRIC_INT, 0, (int64_t)t->traced_blocks};
    ret[n++] =
        (struct metric){"tracemalloc.module.size", TMS_METRIC_SIZE, 0, (int64_t)t->own_bytes};
    ret[n++] =
        (struct metric){"tracemalloc.module.free", TMS_METRIC_SIZE, 0, (int64_t)t->own_free_bytes};
    if (t->own_bytes != 0)
        ret[n++] = (struct metric){"tracemalloc.module.fragmentation", TMS_METRIC_PERCENT,
                                   (double)t->own_free_bytes / (double)t->own_bytes, 0};
    ret[n++] = (struct metric){"tracemalloc.dropped", TMS_METRIC_INT, 0, (int64_t)t->dropped};
    return n;
}

static uint32_t intern_build_id_locked(const struct tm_state_module *file)
{
    static const char digits[] = "0123456789abcdef";
    char text[2 * TM_BUILD_ID_MAX];
    for (uint32_t i = 0; i < file->build_id_bytes; i++) {
        text[2 * i] = digits[file->build_id[i] >> 4];
        text[2 * i + 1] = digits[file->build_id[i] & 15];
    }
    return file->build_id_bytes ? tm_intern_string_locked(text, 2 * file->build_id_bytes) : TM_NONE;
}

/* Modules come to the list before sites name them, so that it is long enough for all sites. */
static void write_modules(struct snapshot *s)
{
    uint32_t n = tm_native_file_count();
    if (n == 0)
        return;
    tms_writer_begin(s->writer, TMS_MODULES);
    for (uint32_t i = 0; i < n; i++) {
        const struct tm_state_module *file = tm_native_file_at(i);
        struct tms_module out = {.start = file->start, .end = file->end, .bias = file->bias};
        pthread_mutex_lock(&tm_intern_lock);
        const char *path = (const char *)file->path_addr;
        out.path = tm_intern_string_locked(path, (uint32_t)strlen(path));
        out.build_id = intern_build_id_locked(file);
        pthread_mutex_unlock(&tm_intern_lock);
        tms_writer_bytes(s->writer, &out, sizeof(out));
    }
    tms_writer_finish(s->writer);
}

/* Interns the metrics' names before the strings are written; they are few and stay. */
static void write_tables(struct snapshot *s)
{
    struct metric metrics[16];
    uint32_t names[16], n = collect_metrics(s, metrics);
    pthread_mutex_lock(&tm_intern_lock);
    for (uint32_t i = 0; i < n; i++)
        names[i] = tm_intern_string_locked(metrics[i].name, (uint32_t)strlen(metrics[i].name));
    pthread_mutex_unlock(&tm_intern_lock);
    write_modules(s);
    s->n_strings = tm_vec_count(&tm_state_export.strings);
    write_strings(s);
    write_sites(s);
    write_nodes(s);
    tms_writer_begin(s->writer, TMS_METRICS);
    for (uint32_t i = 0; i < n; i++) {
        struct tms_metric out = {.name = names[i], .format = metrics[i].format};
        if (names[i] == TM_NONE)
            continue;
        if (metrics[i].format == TMS_METRIC_PERCENT)
            out.value.f = metrics[i].percent;
        else
            out.value.i = metrics[i].value;
        tms_writer_bytes(s->writer, &out, sizeof(out));
    }
    tms_writer_finish(s->writer);
}

void tm_snapshot_abandon(void)
{
    pthread_mutex_init(&snapshot_lock, NULL);
}

static int write_locked(int fd, const struct tm_snapshot_options *options,
                        struct tm_snapshot_result *ret)
{
    if (!tm_tracer_is_enabled())
        return fail(ret, -ENODEV, "tracing is off");
    struct snapshot s = {.options = options, .result = ret, .pagemap_fd = -1};
    if (!snapshot_alloc(&s)) {
        snapshot_free(&s);
        return fail(ret, -ENOMEM, "no memory to write a snapshot");
    }
    int error = begin(&s);
    if (error != 0) {
        snapshot_free(&s);
        return error;
    }
    tm_tracer_measure();
    s.totals.own_bytes = tm_tracer_totals().own_bytes;
    s.totals.own_free_bytes = tm_tracer_totals().own_free_bytes;
    tms_writer_init(s.writer, fd, s.timestamp_ns, tm_shadow.granule_shift);
    write_tables(&s);
    if (options->with_traces) {
        if (sysconf(_SC_PAGESIZE) == TM_MEM_PAGE_BYTES)
            s.pagemap_fd = open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);
        tm_shadow_walk(scan_chunk, &s);
        if (s.pagemap_fd >= 0)
            close(s.pagemap_fd);
    }
    if (options->with_traces && (error = end(&s)) != 0) {
        /* Nobody can stop the hooks any more: the store stays as it is to the process's end. */
        snapshot_free(&s);
        return error;
    }
    if (options->with_traces)
        emit_late(&s);
    write_stats(&s);
    write_facts(&s);
    ret->traces = s.writer->traces;
    ret->traced_bytes = s.totals.traced_bytes;
    ret->pause_ns = s.pause_ns;
    error = tms_writer_end(s.writer);
    ret->file_bytes = s.writer->offset;
    if (error != 0)
        snprintf(ret->message, sizeof(ret->message), "cannot write: %s", strerror(-error));
    else if (s.short_of_memory)
        error = fail(ret, -ENOMEM, "memory ran short while the snapshot was written");
    tm_state_export.snapshots++;
    snapshot_free(&s);
    tm_tracer_unhold();
    return error;
}

int tm_snapshot_write(int fd, const struct tm_snapshot_options *options,
                      struct tm_snapshot_result *ret)
{
    *ret = (struct tm_snapshot_result){0};
    pthread_mutex_lock(&snapshot_lock);
    int error = write_locked(fd, options, ret);
    pthread_mutex_unlock(&snapshot_lock);
    return error;
}
