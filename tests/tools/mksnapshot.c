// SPDX-License-Identifier: MIT
/*
 * Makes .tms files for tests and benchmarks.
 *
 *   mksnapshot spec OUT < TEXT      what the text says (see below)
 *   mksnapshot generate OUT N [SEED [ROUND]]
 *                                   N traces of an invented service; with the same seed, a higher
 *                                   round is the same process later: some blocks are gone, others
 *                                   are new, and app/cache.py:57 has grown
 *
 * A line of the text is one of:
 *   time NS | fact KEY VALUE | metric NAME int|size|percent VALUE
 *   trace ADDRESS SIZE DOMAIN AGE TYPE|- THREAD FRAME;FRAME...  most recent first; - for none
 *   stat FRAME LIVE_BYTES LIVE_BLOCKS TOTAL_BLOCKS PEAK_BYTES
 *   native ADDRESS PATH START END BUILD_ID|-    a module; - where it has no build-id
 *   chain N FRAME                               N frames deep, a block of one byte at each depth
 * FRAME is FILE:LINE:FUNCTION; an empty file or function is unknown; a file "@0x..." is a native
 * frame at that address.
 */
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/tms_writer.h"

typedef struct {
    guint64 timestamp_ns;
    GHashTable *string_ids;
    GPtrArray *strings;
    GHashTable *site_ids; /* by the frame's text */
    GArray *sites;
    GHashTable *node_ids; /* by parent << 32 | site */
    GArray *nodes;
    GArray *traces; /* of struct tms_trace */
    GArray *stats, *metrics, *modules, *types;
    GPtrArray *facts; /* key, value, key ... */
    gboolean has_traces_fact;
} Builder;

static guint u64_hash(const void *key)
{
    return (guint)(*(const guint64 *)key * G_GUINT64_CONSTANT(0x9e3779b97f4a7c15) >> 32);
}

static void builder_init(Builder *b)
{
    struct tms_node root = {TMS_NO_ID, TMS_NO_ID};

    memset(b, 0, sizeof *b);
    b->timestamp_ns = G_GUINT64_CONSTANT(1700000000000000000);
    b->string_ids = g_hash_table_new(g_str_hash, g_str_equal);
    b->strings = g_ptr_array_new();
    b->site_ids = g_hash_table_new(g_str_hash, g_str_equal);
    b->sites = g_array_new(FALSE, TRUE, sizeof(struct tms_site));
    b->node_ids = g_hash_table_new(u64_hash, g_int64_equal);
    b->nodes = g_array_new(FALSE, TRUE, sizeof(struct tms_node));
    b->traces = g_array_new(FALSE, TRUE, sizeof(struct tms_trace));
    b->stats = g_array_new(FALSE, TRUE, sizeof(struct tms_stat));
    b->metrics = g_array_new(FALSE, TRUE, sizeof(struct tms_metric));
    b->modules = g_array_new(FALSE, TRUE, sizeof(struct tms_module));
    b->types = g_array_new(FALSE, TRUE, sizeof(guint32));
    b->facts = g_ptr_array_new();
    g_array_append_val(b->nodes, root);
}

static guint32 add_string(Builder *b, const char *text)
{
    void *found;

    if (g_hash_table_lookup_extended(b->string_ids, text, NULL, &found))
        return GPOINTER_TO_UINT(found);
    g_ptr_array_add(b->strings, g_strdup(text));
    g_hash_table_insert(b->string_ids, b->strings->pdata[b->strings->len - 1],
                        GUINT_TO_POINTER(b->strings->len - 1));
    return b->strings->len - 1;
}

static guint32 add_string_or_none(Builder *b, const char *text)
{
    return text && *text ? add_string(b, text) : TMS_NO_ID;
}

static guint32 add_site(Builder *b, const char *frame)
{
    void *found;
    struct tms_site site = {.module = TMS_NO_ID};
    g_auto(GStrv) parts = NULL;

    if (g_hash_table_lookup_extended(b->site_ids, frame, NULL, &found))
        return GPOINTER_TO_UINT(found);
    parts = g_strsplit(frame, ":", 3);
    site.line = parts[0] && parts[1] ? atoi(parts[1]) : 0;
    site.function = add_string_or_none(b, parts[0] && parts[1] ? parts[2] : NULL);
    if (parts[0] && parts[0][0] == '@') {
        site.kind = TMS_SITE_NATIVE;
        site.address = strtoull(parts[0] + 1, NULL, 0);
        site.file = TMS_NO_ID;
        for (guint i = 0; i < b->modules->len; i++) {
            struct tms_module *module = &g_array_index(b->modules, struct tms_module, i);
            if (module->start <= site.address && site.address < module->end) {
                site.module = i;
                site.file = module->path;
            }
        }
    } else {
        site.file = add_string_or_none(b, parts[0]);
        site.first_line = site.line > 5 ? site.line - 5 : site.line;
    }
    g_array_append_val(b->sites, site);
    g_hash_table_insert(b->site_ids, g_strdup(frame), GUINT_TO_POINTER(b->sites->len - 1));
    return b->sites->len - 1;
}

static guint32 add_node(Builder *b, guint32 parent, guint32 site)
{
    guint64 key = (guint64)parent << 32 | site;
    struct tms_node node = {parent, site};
    void *found;

    if (g_hash_table_lookup_extended(b->node_ids, &key, NULL, &found))
        return GPOINTER_TO_UINT(found);
    g_array_append_val(b->nodes, node);
    g_hash_table_insert(b->node_ids, g_memdup2(&key, sizeof key),
                        GUINT_TO_POINTER(b->nodes->len - 1));
    return b->nodes->len - 1;
}

static guint32 add_traceback(Builder *b, const char *frames)
{
    g_auto(GStrv) list = g_strsplit(frames, ";", -1);
    guint32 node = 0;

    if (strcmp(frames, "-") == 0)
        return 0;
    for (guint i = g_strv_length(list); i-- > 0;)
        node = add_node(b, node, add_site(b, list[i]));
    return node;
}

static guint32 add_type(Builder *b, const char *name)
{
    guint32 id = add_string(b, name);

    for (guint i = 0; i < b->types->len; i++) {
        if (g_array_index(b->types, guint32, i) == id)
            return i + 1;
    }
    g_array_append_val(b->types, id);
    return b->types->len;
}

static void add_fact(Builder *b, const char *key, const char *value)
{
    g_ptr_array_add(b->facts, g_strdup(key));
    g_ptr_array_add(b->facts, g_strdup(value));
    b->has_traces_fact |= strcmp(key, "traces") == 0;
}

/* --- the text --- */

static void read_trace(Builder *b, char **word)
{
    struct tms_trace trace = {
        .address = strtoull(word[1], NULL, 0),
        .size_bytes = strtoull(word[2], NULL, 0),
        .domain = (uint8_t)atoi(word[3]),
        .age = (uint16_t)atoi(word[4]),
        .type = strcmp(word[5], "-") ? add_type(b, word[5]) : 0,
        .thread = (uint32_t)strtoul(word[6], NULL, 0),
        .node = add_traceback(b, word[7]),
    };
    g_array_append_val(b->traces, trace);
}

static void read_chain(Builder *b, char **word)
{
    guint n = (guint)strtoul(word[1], NULL, 0);
    guint32 node = 0, site = add_site(b, word[2]);

    for (guint i = 0; i < n; i++) {
        struct tms_trace trace = {.address = 0x100000 + 16 * (guint64)i, .size_bytes = 1};
        node = trace.node = add_node(b, node, site);
        g_array_append_val(b->traces, trace);
    }
}

static void read_stat(Builder *b, char **word)
{
    struct tms_stat stat = {
        .site = strcmp(word[1], "-") ? add_site(b, word[1]) : TMS_NO_ID,
        .live_bytes = strtoull(word[2], NULL, 0),
        .live_blocks = strtoull(word[3], NULL, 0),
        .total_blocks = strtoull(word[4], NULL, 0),
        .peak_bytes = strtoull(word[5], NULL, 0),
    };
    g_array_append_val(b->stats, stat);
}

static void read_metric(Builder *b, char **word)
{
    struct tms_metric metric = {.name = add_string(b, word[1])};

    if (strcmp(word[2], "percent") == 0) {
        metric.format = TMS_METRIC_PERCENT;
        metric.value.f = g_ascii_strtod(word[3], NULL);
    } else {
        metric.format = strcmp(word[2], "size") == 0 ? TMS_METRIC_SIZE : TMS_METRIC_INT;
        metric.value.i = strtoll(word[3], NULL, 0);
    }
    g_array_append_val(b->metrics, metric);
}

static gboolean read_line(Builder *b, char *line)
{
    static const struct {
        const char *word;
        guint n_words;
    } forms[] = {{"time", 2},   {"fact", 3},   {"trace", 8}, {"stat", 6},
                 {"metric", 4}, {"native", 6}, {"chain", 3}};
    g_auto(GStrv) word = NULL;
    guint n_words = 0;

    g_strstrip(line);
    if (*line == '\0' || *line == '#')
        return TRUE;
    for (guint i = 0; i < G_N_ELEMENTS(forms); i++) {
        if (g_str_has_prefix(line, forms[i].word))
            n_words = forms[i].n_words;
    }
    word = g_strsplit(line, " ", (gint)n_words);
    if (n_words == 0 || g_strv_length(word) != n_words)
        return FALSE;
    if (strcmp(word[0], "time") == 0)
        b->timestamp_ns = strtoull(word[1], NULL, 0);
    else if (strcmp(word[0], "fact") == 0)
        add_fact(b, word[1], word[2]);
    else if (strcmp(word[0], "trace") == 0)
        read_trace(b, word);
    else if (strcmp(word[0], "chain") == 0)
        read_chain(b, word);
    else if (strcmp(word[0], "stat") == 0)
        read_stat(b, word);
    else if (strcmp(word[0], "metric") == 0)
        read_metric(b, word);
    else {
        struct tms_module module = {.start = strtoull(word[3], NULL, 0),
                                    .end = strtoull(word[4], NULL, 0),
                                    .bias = strtoull(word[3], NULL, 0),
                                    .path = add_string(b, word[2]),
                                    .build_id =
                                        strcmp(word[5], "-") ? add_string(b, word[5]) : TMS_NO_ID};
        g_array_append_val(b->modules, module);
    }
    return TRUE;
}

static gboolean read_text(Builder *b)
{
    char *line = NULL;
    size_t capacity = 0;

    while (getline(&line, &capacity, stdin) >= 0) {
        if (!read_line(b, line)) {
            fprintf(stderr, "mksnapshot: bad line: %s\n", line);
            return FALSE;
        }
    }
    free(line);
    return TRUE;
}

/* --- the invented service --- */

static guint64 random_state;

static guint32 next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (guint32)(random_state >> 33);
}

/* Sites as a service has them: a few hundred files, some lines of each allocate. */
static guint32 invent_site(Builder *b, guint32 n)
{
    g_autofree char *frame = g_strdup_printf("/srv/app/lib/package%u/module%u.py:%u:function%u",
                                             n % 17, n % 251, 10 + n % 977, n % 541);
    return add_site(b, frame);
}

/* Tracebacks as a tree: most allocations come from few call paths. */
static void invent_tracebacks(Builder *b, guint n_leaves, GArray *ret_nodes)
{
    guint32 main_site = add_site(b, "/srv/app/main.py:12:main");
    guint32 root = add_node(b, 0, main_site);

    for (guint i = 0; i < n_leaves; i++) {
        guint32 node = root;
        guint depth = 2 + next_random() % 14;
        for (guint d = 0; d < depth; d++)
            node = add_node(b, node, invent_site(b, next_random() % (d < 4 ? 40 : 8000)));
        g_array_append_val(ret_nodes, node);
    }
}

static guint64 invent_size(void)
{
    guint32 r = next_random();

    if (r % 1000 == 0)
        return 1000000 + next_random() % 5000000;
    if (r % 50 == 0)
        return 600 + next_random() % 20000;
    return 24 + 8 * (next_random() % 20);
}

static void generate(Builder *b, guint64 n_traces, guint64 seed, guint round)
{
    g_autoptr(GArray) nodes = g_array_new(FALSE, FALSE, sizeof(guint32));
    guint64 address = G_GUINT64_CONSTANT(0x7f1200000000);
    guint32 leak;

    random_state = seed;
    invent_tracebacks(b, 20000, nodes);
    leak = add_traceback(b, "/srv/app/cache.py:57:remember;/srv/app/handler.py:31:handle;"
                            "/srv/app/main.py:12:main");
    for (guint64 i = 0; i < n_traces; i++) {
        struct tms_trace trace = {.size_bytes = invent_size(), .domain = TMS_DOMAIN_OBJ};
        guint32 pick = next_random();
        guint32 fate = next_random() % 64;

        /* Squaring prefers the front: a few tracebacks hold most blocks. */
        pick = (guint32)((guint64)(pick % 20000) * (next_random() % 20000) / 20000);
        trace.node = g_array_index(nodes, guint32, pick);
        trace.address = address;
        address += (trace.size_bytes + 15) / 16 * 16;
        if (round && fate < round % 8)
            continue; /* Gone by now. */
        if (fate >= 64 - MIN(round, 32)) {
            trace.node = leak;
            trace.age = (guint16)(64 - fate);
        }
        if (trace.size_bytes > 512)
            trace.domain = TMS_DOMAIN_RAW;
        g_array_append_val(b->traces, trace);
    }
    b->timestamp_ns += round * G_GUINT64_CONSTANT(60000000000);
    add_fact(b, "pid", "4242");
    add_fact(b, "python", "3.11.7");
    add_fact(b, "traceback_limit", "16");
}

/* --- writing --- */

static void write_strings(struct tms_writer *w, const Builder *b)
{
    guint32 n = b->strings->len, end = 0;

    tms_writer_begin(w, TMS_STRINGS);
    tms_writer_bytes(w, &n, sizeof n);
    for (guint i = 0; i < n; i++) {
        end += (guint32)strlen(b->strings->pdata[i]);
        tms_writer_bytes(w, &end, sizeof end);
    }
    for (guint i = 0; i < n; i++)
        tms_writer_bytes(w, b->strings->pdata[i], strlen(b->strings->pdata[i]));
    tms_writer_finish(w);
}

static void write_array(struct tms_writer *w, enum tms_section_type type, const GArray *array)
{
    if (array->len == 0)
        return;
    tms_writer_begin(w, type);
    tms_writer_bytes(w, array->data, (gsize)array->len * g_array_get_element_size((GArray *)array));
    tms_writer_finish(w);
}

static int compare_traces(const void *a, const void *b)
{
    uint64_t x = ((const struct tms_trace *)a)->address, y = ((const struct tms_trace *)b)->address;
    return (x > y) - (x < y);
}

static int builder_write(Builder *b, int fd)
{
    struct tms_writer *w = g_malloc(sizeof *w);
    int result;

    tms_writer_init(w, fd, b->timestamp_ns, 4);
    if (!b->has_traces_fact)
        add_fact(b, "traces", b->traces->len || !b->stats->len ? "1" : "0");
    tms_writer_begin(w, TMS_FACTS);
    for (guint i = 0; i < b->facts->len; i += 2)
        tms_writer_fact(w, b->facts->pdata[i], b->facts->pdata[i + 1]);
    tms_writer_finish(w);
    write_strings(w, b);
    write_array(w, TMS_SITES, b->sites);
    write_array(w, TMS_NODES, b->nodes);
    write_array(w, TMS_STATS, b->stats);
    write_array(w, TMS_METRICS, b->metrics);
    write_array(w, TMS_MODULES, b->modules);
    write_array(w, TMS_TYPES, b->types);
    g_array_sort(b->traces, compare_traces);
    for (guint i = 0; i < b->traces->len; i++)
        tms_writer_trace(w, &g_array_index(b->traces, struct tms_trace, i));
    result = tms_writer_end(w);
    g_free(w);
    return result;
}

int main(int argc, char **argv)
{
    Builder builder;
    int fd, result;

    if (argc < 3 || (strcmp(argv[1], "generate") == 0 && argc < 4)) {
        fputs("usage: mksnapshot spec OUT < TEXT | mksnapshot generate OUT N [SEED [ROUND]]\n",
              stderr);
        return 2;
    }
    builder_init(&builder);
    if (strcmp(argv[1], "generate") == 0)
        generate(&builder, strtoull(argv[3], NULL, 0), argc > 4 ? strtoull(argv[4], NULL, 0) : 1,
                 argc > 5 ? (guint)atoi(argv[5]) : 0);
    else if (!read_text(&builder))
        return 1;
    fd = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        perror(argv[2]);
        return 1;
    }
    result = builder_write(&builder, fd);
    if (result)
        fprintf(stderr, "mksnapshot: %s: %s\n", argv[2], strerror(-result));
    close(fd);
    return result != 0;
}
