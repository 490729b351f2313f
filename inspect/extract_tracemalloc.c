// SPDX-License-Identifier: MIT
/*
 * Reads the tables of the standard library's tracemalloc, CPython 3.8 to 3.13,
 * from outside. Where they are and how they are built comes from the debug
 * information of the interpreter. A hash table is an array of buckets, each a
 * list of entries; an entry of 3.8 holds key and data behind its head, one of
 * 3.9 on holds pointers to them (Modules/hashtable.c, Include/internal/
 * pycore_hashtable.h). Facts on the tables themselves: Modules/_tracemalloc.c
 * up to 3.12, Python/tracemalloc.c in 3.13.
 */
#include <string.h>

#include "format/utf8.h"
#include "inspect/error.h"
#include "inspect/extract_private.h"
#include "inspect/python.h"
#include "inspect/tracemalloc_layout.h"

enum {
    BUCKETS_MAX = 1 << 28,
    FRAMES_MAX = 65535,
    FILENAME_MAX_CHARS = 1 << 16,
    PAGE_BYTES = 1 << 14, /* of the cache */
    PAGES = 1 << 10,
};

/* Entries are some 16 to 40 bytes each, all over the heap: a live process is read in pages that
 * are kept, so that a million entries do not cost millions of system calls. */
struct page {
    uint64_t addr; /* 1: empty */
    size_t n_bytes;
    uint8_t bytes[PAGE_BYTES];
};

struct frame_key {
    uint64_t filename_addr;
    uint32_t line;
    uint32_t parent; /* nodes: the caller's node; sites: 0 */
};

struct reader {
    tm_target *target;
    struct tm_tracemalloc_layout layout;
    struct page *pages; /* NULL for sources that can be viewed in place */
    struct tms_writer *writer;
    GArray *traces; /* struct tms_trace */
    GArray *nodes;  /* struct tms_node */
    GArray *sites;  /* struct tms_site */
    struct tm_strings strings;
    GHashTable *string_ids;      /* address of the str -> id + 1 */
    GHashTable *site_ids;        /* struct frame_key -> id + 1 */
    GHashTable *node_ids;        /* struct frame_key -> id + 1 */
    GHashTable *traceback_nodes; /* address -> node + 1 */
    uint64_t torn;
};

/* ---- reading ---- */

static bool get(struct reader *r, uint64_t addr, void *ret, size_t n_bytes)
{
    const void *place = r->target->ops->peek(r->target->data, addr, n_bytes);
    if (place != NULL) {
        memcpy(ret, place, n_bytes);
        return true;
    }
    uint64_t base = addr & ~(uint64_t)(PAGE_BYTES - 1);
    if (r->pages == NULL || addr + n_bytes > base + PAGE_BYTES || n_bytes > PAGE_BYTES)
        return tm_target_read_some(r->target, addr, ret, n_bytes) == n_bytes;
    struct page *page = &r->pages[base / PAGE_BYTES % PAGES];
    if (page->addr != base) {
        page->addr = base;
        page->n_bytes = tm_target_read_some(r->target, base, page->bytes, PAGE_BYTES);
    }
    /* A page whose start is missing may still hold these bytes. */
    if (addr - base + n_bytes > page->n_bytes)
        return tm_target_read_some(r->target, addr, ret, n_bytes) == n_bytes;
    memcpy(ret, page->bytes + (addr - base), n_bytes);
    return true;
}

static bool get_field(struct reader *r, uint64_t addr, const struct tm_field *field, uint64_t *ret)
{
    uint64_t value = 0;
    if (field->size_bytes > 8 || !get(r, addr + field->offset_bytes, &value, field->size_bytes))
        return false;
    if (field->n_bits != 0)
        value = value >> field->bit_offset &
                (field->n_bits < 64 ? (1ull << field->n_bits) - 1 : UINT64_MAX);
    *ret = value;
    return true;
}

/* ---- hash tables ---- */

/* False: the entry is torn. */
typedef bool (*entry_visitor)(struct reader *r, uint64_t key, uint64_t value_addr, void *arg);

/* value_addr: 3.8: of the data inside the entry; 3.9 on: what the entry points at. */
static bool read_entry(struct reader *r, uint64_t entry_addr, uint64_t key_bytes, uint64_t *ret_key,
                       uint64_t *ret_value_addr)
{
    const struct tm_tracemalloc_layout *layout = &r->layout;
    if (!layout->inline_data)
        return get_field(r, entry_addr, &layout->entry_key, ret_key) &&
               get_field(r, entry_addr, &layout->entry_value, ret_value_addr);
    /* A pointer, or a pointer and a domain, packed. */
    *ret_value_addr = entry_addr + layout->entry_bytes + key_bytes;
    return get(r, entry_addr + layout->entry_bytes, ret_key, 8);
}

static bool visit_table(struct reader *r, uint64_t table_addr, entry_visitor visit, void *arg,
                        GError **error)
{
    const struct tm_tracemalloc_layout *layout = &r->layout;
    uint64_t n_buckets, n_entries, buckets_addr, key_bytes = 8, seen = 0;
    if (!get_field(r, table_addr, &layout->table_buckets, &n_buckets) ||
        !get_field(r, table_addr, &layout->table_entries, &n_entries) ||
        !get_field(r, table_addr, &layout->table_array, &buckets_addr) ||
        (layout->inline_data && !get_field(r, table_addr, &layout->table_key_bytes, &key_bytes)) ||
        n_buckets > BUCKETS_MAX || key_bytes < 8 || key_bytes > 16 || n_entries >> 40 != 0) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT,
                    "tracemalloc's table at 0x%" G_GINT64_MODIFIER "x is damaged", table_addr);
        return false;
    }
    for (uint64_t i = 0; i < n_buckets; i++) {
        uint64_t entry_addr, key, value_addr;
        if (!tm_target_read(r->target, buckets_addr + i * 8, &entry_addr, 8,
                            "tracemalloc's buckets", error))
            return false;
        for (; entry_addr != 0; seen++) {
            /* A list that runs in a circle ends here. */
            if (seen > n_entries || !read_entry(r, entry_addr, key_bytes, &key, &value_addr)) {
                r->torn++;
                break;
            }
            r->torn += !visit(r, key, value_addr, arg);
            if (!get(r, entry_addr, &entry_addr, 8)) {
                r->torn++;
                break;
            }
        }
        if (seen > n_entries)
            break;
    }
    return true;
}

/* ---- frames ---- */

static guint key_hash(gconstpointer data)
{
    const struct frame_key *key = data;
    uint64_t hash = (key->filename_addr ^ (uint64_t)key->parent << 32) * 0x9e3779b97f4a7c15ull;
    return (guint)((hash ^ key->line) * 0x9e3779b97f4a7c15ull >> 32);
}

static gboolean key_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(struct frame_key)) == 0;
}

/* A str object as UTF-8; NULL where it is none. */
static GString *read_str(struct reader *r, uint64_t addr)
{
    const struct tm_tracemalloc_layout *layout = &r->layout;
    uint64_t length, kind, compact, ascii;
    if (!get_field(r, addr, &layout->str_length, &length) ||
        !get_field(r, addr, &layout->str_kind, &kind) ||
        !get_field(r, addr, &layout->str_compact, &compact) ||
        !get_field(r, addr, &layout->str_ascii, &ascii) || length > FILENAME_MAX_CHARS ||
        compact != 1 || (kind != 1 && kind != 2 && kind != 4) || (ascii && kind != 1))
        return NULL;
    g_autofree uint8_t *chars = g_malloc(length * kind + 1);
    uint64_t data_addr = addr + (ascii ? layout->ascii_bytes : layout->compact_bytes);
    if (tm_target_read_some(r->target, data_addr, chars, length * kind) != length * kind)
        return NULL;
    GString *out = g_string_sized_new(length + 1);
    for (uint64_t i = 0; i < length; i++) {
        uint32_t c = 0;
        memcpy(&c, chars + i * kind, kind);
        if (c > 0x10ffff || (ascii && c >= 0x80)) {
            g_string_free(out, TRUE);
            return NULL;
        }
        char bytes[TM_UTF8_MAX];
        g_string_append_len(out, bytes, (gssize)tm_utf8_encode(c, bytes));
    }
    return out;
}

static uint32_t string_id(struct reader *r, uint64_t addr)
{
    gpointer known = g_hash_table_lookup(r->string_ids, (gpointer)addr);
    if (known != NULL)
        return GPOINTER_TO_UINT(known) - 1;
    GString *text = read_str(r, addr);
    uint32_t id = TMS_NO_ID;
    if (text != NULL) {
        id = tm_strings_add(&r->strings, text->str, text->len);
        g_string_free(text, TRUE);
    }
    if (id != TMS_NO_ID)
        g_hash_table_insert(r->string_ids, (gpointer)addr, GUINT_TO_POINTER(id + 1));
    return id;
}

static uint32_t remember(GHashTable *table, const struct frame_key *key, uint32_t id)
{
    g_hash_table_insert(table, g_memdup2(key, sizeof(*key)), GUINT_TO_POINTER(id + 1));
    return id;
}

/* TMS_NO_ID: the filename is not a str. */
static uint32_t site_id(struct reader *r, uint64_t filename_addr, uint32_t line)
{
    struct frame_key key = {filename_addr, line, 0};
    gpointer known = g_hash_table_lookup(r->site_ids, &key);
    if (known != NULL)
        return GPOINTER_TO_UINT(known) - 1;
    struct tms_site site = {.file = string_id(r, filename_addr),
                            .function = TMS_NO_ID,
                            .line = (int32_t)line,
                            .module = TMS_NO_ID};
    if (site.file == TMS_NO_ID || line > INT32_MAX)
        return TMS_NO_ID;
    g_array_append_val(r->sites, site);
    return remember(r->site_ids, &key, r->sites->len - 1);
}

static uint32_t node_id(struct reader *r, uint32_t parent, uint32_t site)
{
    struct frame_key key = {site, 0, parent};
    gpointer known = g_hash_table_lookup(r->node_ids, &key);
    if (known != NULL)
        return GPOINTER_TO_UINT(known) - 1;
    struct tms_node node = {parent, site};
    g_array_append_val(r->nodes, node);
    return remember(r->node_ids, &key, r->nodes->len - 1);
}

/* A traceback_t: its first frame is the most recent one. */
static uint32_t read_traceback(struct reader *r, uint64_t addr)
{
    const struct tm_tracemalloc_layout *layout = &r->layout;
    uint64_t n_frames;
    uint32_t node = 0;
    if (!get_field(r, addr, &layout->traceback_frames_count, &n_frames) || n_frames > FRAMES_MAX)
        return TMS_NO_ID;
    for (uint64_t i = n_frames; i > 0; i--) {
        uint64_t frame_addr =
            addr + layout->traceback_frames.offset_bytes + (i - 1) * layout->frame_bytes;
        uint64_t filename_addr, line;
        if (!get_field(r, frame_addr, &layout->frame_filename, &filename_addr) ||
            !get_field(r, frame_addr, &layout->frame_line, &line))
            return TMS_NO_ID;
        uint32_t site = site_id(r, filename_addr, (uint32_t)line);
        if (site == TMS_NO_ID)
            return TMS_NO_ID;
        node = node_id(r, node, site);
    }
    return node;
}

static uint32_t traceback_node(struct reader *r, uint64_t addr)
{
    gpointer known = g_hash_table_lookup(r->traceback_nodes, (gpointer)addr);
    if (known != NULL)
        return GPOINTER_TO_UINT(known) - 1;
    uint32_t node = read_traceback(r, addr);
    if (node != TMS_NO_ID)
        g_hash_table_insert(r->traceback_nodes, (gpointer)addr, GUINT_TO_POINTER(node + 1));
    return node;
}

/* ---- traces ---- */

static bool take_trace(struct reader *r, uint64_t key, uint64_t value_addr, void *arg)
{
    uint64_t traceback_addr;
    struct tms_trace trace = {.address = key, .domain = *(const uint8_t *)arg};
    if (key == 0 || key >> 47 != 0 ||
        !get_field(r, value_addr, &r->layout.trace_size, &trace.size_bytes) ||
        !get_field(r, value_addr, &r->layout.trace_traceback, &traceback_addr) ||
        trace.size_bytes >> 47 != 0)
        return false;
    trace.node = traceback_node(r, traceback_addr);
    if (trace.node == TMS_NO_ID)
        return false;
    g_array_append_val(r->traces, trace);
    return true;
}

/* A domain of somebody else's: its value is a table of traces. Other domains are other tracers' of
 * C code; here as in a pickle they become raw. */
static bool take_domain(struct reader *r, uint64_t key, uint64_t table_addr, void *arg)
{
    uint8_t domain = TMS_DOMAIN_RAW;
    (void)key;
    (void)arg;
    return visit_table(r, table_addr, take_trace, &domain, NULL);
}

static int compare_traces(const void *a, const void *b)
{
    const struct tms_trace *x = a, *y = b;
    return x->address < y->address ? -1 : x->address > y->address;
}

static bool read_traces(struct reader *r, GError **error)
{
    const struct tm_tracemalloc_layout *layout = &r->layout;
    uint64_t table_addr;
    uint8_t domain = TMS_DOMAIN_OBJ;
    if (!tm_target_read(r->target, layout->traces_addr, &table_addr, 8, "tracemalloc's traces",
                        error) ||
        !visit_table(r, table_addr, take_trace, &domain, error))
        return false;
    if (layout->domains_addr != 0 &&
        (!tm_target_read(r->target, layout->domains_addr, &table_addr, 8, "tracemalloc's domains",
                         error) ||
         (table_addr != 0 && !visit_table(r, table_addr, take_domain, NULL, error))))
        return false;
    if (r->traces->len > 0)
        qsort(r->traces->data, r->traces->len, sizeof(struct tms_trace), compare_traces);
    return true;
}

/* ---- the file ---- */

static void write_facts(struct reader *r)
{
    struct tms_writer *w = r->writer;
    tms_writer_begin(w, TMS_FACTS);
    tms_writer_fact_i64(w, "pid", r->target->facts.pid);
    tm_extract_process_facts(w, r->target, r->layout.python);
    tms_writer_fact_i64(w, "traceback_limit", r->layout.traceback_limit);
    tms_writer_fact(w, "domains", "raw,mem,obj");
    tms_writer_fact_i64(w, "torn", (int64_t)r->torn);
    tms_writer_fact(w, "origin", "tracemalloc");
    tms_writer_finish(w);
}

static void write_metrics(struct reader *r)
{
    g_autoptr(GArray) metrics = g_array_new(FALSE, FALSE, sizeof(struct tms_metric));
    uint64_t bytes;
    tm_extract_add_process_metrics(metrics, &r->strings, r->target);
    if (get(r, r->layout.traced_addr, &bytes, 8))
        tm_extract_add_metric(metrics, &r->strings, "tracemalloc.traced.size", TMS_METRIC_SIZE,
                              (int64_t)bytes);
    if (get(r, r->layout.peak_addr, &bytes, 8))
        tm_extract_add_metric(metrics, &r->strings, "tracemalloc.traced.max_size", TMS_METRIC_SIZE,
                              (int64_t)bytes);
    tm_extract_add_metric(metrics, &r->strings, "tracemalloc.traces", TMS_METRIC_INT,
                          r->traces->len);
    tm_extract_write_array(r->writer, TMS_METRICS, metrics);
}

/* Addresses below this one's trailing zeros are all alike. */
static unsigned granule_shift(const GArray *traces)
{
    uint64_t bits = 16;
    for (guint i = 0; i < traces->len; i++)
        bits |= g_array_index(traces, struct tms_trace, i).address;
    return (unsigned)__builtin_ctzll(bits);
}

static bool write_file(struct reader *r, int fd, struct tm_extract_result *ret, GError **error)
{
    r->writer = tm_extract_writer_new(r->target, fd, granule_shift(r->traces));
    for (guint i = 0; i < r->traces->len; i++)
        tms_writer_trace(r->writer, &g_array_index(r->traces, struct tms_trace, i));
    tms_writer_flush_traces(r->writer);
    write_metrics(r);
    tm_strings_write(&r->strings, r->writer);
    tm_extract_write_array(r->writer, TMS_SITES, r->sites);
    tm_extract_write_array(r->writer, TMS_NODES, r->nodes);
    write_facts(r);
    ret->origin = "tracemalloc";
    ret->torn = r->torn;
    return tm_extract_writer_end(r->writer, ret, error);
}

static void reader_init(struct reader *r)
{
    struct tms_node empty = {TMS_NO_ID, TMS_NO_ID};
    r->traces = g_array_new(FALSE, FALSE, sizeof(struct tms_trace));
    r->nodes = g_array_new(FALSE, FALSE, sizeof(struct tms_node));
    r->sites = g_array_new(FALSE, FALSE, sizeof(struct tms_site));
    g_array_append_val(r->nodes, empty);
    tm_strings_init(&r->strings);
    r->string_ids = g_hash_table_new(NULL, NULL);
    r->traceback_nodes = g_hash_table_new(NULL, NULL);
    r->site_ids = g_hash_table_new_full(key_hash, key_equal, g_free, NULL);
    r->node_ids = g_hash_table_new_full(key_hash, key_equal, g_free, NULL);
    if (r->target->live) {
        r->pages = g_new(struct page, PAGES);
        for (int i = 0; i < PAGES; i++)
            r->pages[i].addr = 1;
    }
}

static void reader_done(struct reader *r)
{
    g_array_unref(r->traces);
    g_array_unref(r->nodes);
    g_array_unref(r->sites);
    tm_strings_done(&r->strings);
    g_hash_table_unref(r->string_ids);
    g_hash_table_unref(r->traceback_nodes);
    g_hash_table_unref(r->site_ids);
    g_hash_table_unref(r->node_ids);
    g_free(r->pages);
    g_free(r->writer);
}

bool tm_extract_tracemalloc(tm_target *target, int fd, struct tm_extract_result *ret,
                            GError **error)
{
    struct reader r = {.target = target};
    if (!tm_tracemalloc_layout_find(target, &r.layout, error)) {
        g_prefix_error(error, "%s: ", target->name);
        return false;
    }
    reader_init(&r);
    bool ok = read_traces(&r, error);
    if (!ok)
        g_prefix_error(error, "%s: ", target->name);
    ok = ok && write_file(&r, fd, ret, error);
    reader_done(&r);
    return ok;
}
