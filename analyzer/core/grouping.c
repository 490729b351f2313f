// SPDX-License-Identifier: MIT
/* Grouping of traces. libc and pthreads (through scan.c) only. */
#include "analyzer/core/grouping.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analyzer/core/bucket.h"
#include "analyzer/core/sampled.h"
#include "analyzer/core/scan.h"
#include "analyzer/core/size.h"

static bool no_memory(struct tms_error *error)
{
    memset(error, 0, sizeof *error);
    error->code = TMS_E_MEMORY;
    snprintf(error->message, sizeof error->message, "not enough memory");
    return false;
}

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
    uint64_t sum;

    if (__builtin_add_overflow(a, b, &sum) || sum > INT64_MAX)
        return INT64_MAX;
    return sum;
}

bool tm_group_by_has_frames(enum tm_group_by by)
{
    return by == TM_BY_LINE || by == TM_BY_FILE || by == TM_BY_FUNCTION || by == TM_BY_MODULE;
}

bool tm_group_by_needs_traces(enum tm_group_by by)
{
    return !tm_group_by_has_frames(by);
}

/* --- by node --- */

static void add(struct tm_tally *to, struct tm_tally amount)
{
    to->bytes = add_saturated(to->bytes, amount.bytes);
    to->count = add_saturated(to->count, amount.count);
}

static bool tally_sampled_rows(struct tm_tally *tally, const struct tm_batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++)
        add(&tally[batch->column.node[i]],
            tm_sampled_weight(batch->sample_mean_bytes, batch->column.size_bytes[i]));
    return true;
}

static bool tally_rows(void *state, const struct tm_batch *batch)
{
    struct tm_tally *tally = state;
    const uint32_t *node = batch->column.node;
    const uint64_t *size_bytes = batch->column.size_bytes;

    if (batch->sample_mean_bytes != 0)
        return tally_sampled_rows(tally, batch);
    for (uint32_t i = 0; i < batch->count; i++) {
        tally[node[i]].bytes += size_bytes[i];
        tally[node[i]].count++;
    }
    return true;
}

struct tm_tally *tm_image_tally(const struct tm_image *image, struct tms_error *error)
{
    const struct tms_file *file = image->file;
    size_t n_nodes = (size_t)file->n_nodes + 1;
    void *states[TM_SCAN_THREADS_MAX] = {NULL};
    unsigned n_states = tm_scan_threads(file);
    struct tm_tally *sum;
    bool ok = true;

    for (unsigned i = 0; i < n_states; i++)
        ok = ok && (states[i] = calloc(n_nodes, sizeof(struct tm_tally))) != NULL;
    ok = ok ? tm_scan(file, TM_SCAN_NODE | TM_SCAN_SIZE, tally_rows, states, n_states, error)
            : no_memory(error);
    sum = states[0];
    for (unsigned i = 1; i < n_states; i++) {
        const struct tm_tally *part = states[i];
        for (size_t n = 0; ok && n < n_nodes; n++) {
            add(&sum[n], part[n]);
        }
        free(states[i]);
    }
    if (!ok) {
        free(sum);
        return NULL;
    }
    for (uint32_t n = 0; image->keep_node && n < file->n_nodes; n++) {
        if (!image->keep_node[n])
            sum[n] = (struct tm_tally){0, 0};
    }
    return sum;
}

/* Turns what each traceback holds into what it and all tracebacks that go through it hold: a
 * parent has the smaller index, so one pass from the end suffices. */
static void accumulate(const struct tms_file *file, struct tm_tally *tally)
{
    for (uint32_t n = file->n_nodes; n-- > 1;) {
        uint32_t parent = file->nodes[n].parent;
        if (parent == 0 || parent >= n)
            continue; /* The empty traceback is nobody's caller. */
        tally[parent].bytes = add_saturated(tally[parent].bytes, tally[n].bytes);
        tally[parent].count = add_saturated(tally[parent].count, tally[n].count);
    }
}

static uint32_t dense_size(const struct tm_model *model, enum tm_group_by by)
{
    switch (by) {
    case TM_BY_LINE:
        return model->lines.count;
    case TM_BY_FUNCTION:
        return model->functions.count;
    case TM_BY_TRACEBACK:
        return model->nodes.count;
    default:
        return model->strings.count;
    }
}

static uint32_t site_key(const struct tm_model *model, enum tm_group_by by, uint32_t site)
{
    switch (by) {
    case TM_BY_LINE:
        return model->line_of_site[site];
    case TM_BY_FUNCTION:
        return model->function_of_site[site];
    case TM_BY_MODULE:
        return tm_model_site(model, site)->module;
    default:
        return tm_model_site(model, site)->file;
    }
}

/* Keeps the touched elements of a dense array as groups. */
static bool gather(const struct tm_tally *dense, uint32_t n, struct tm_groups *ret)
{
    size_t n_items = 0;

    for (uint32_t i = 0; i < n; i++)
        n_items += dense[i].count != 0;
    ret->items = malloc((n_items + 1) * sizeof *ret->items);
    if (ret->items == NULL)
        return false;
    ret->n_items = n_items;
    for (uint32_t i = 0, at = 0; i < n; i++) {
        if (dense[i].count)
            ret->items[at++] = (struct tm_group){i, dense[i].bytes, dense[i].count};
    }
    return true;
}

/* Lines and files are Python's: what native code takes is its caller's there. What Python's own
 * allocators take is always their caller's, unless every frame counts. False: the frame does
 * not count. */
static bool node_site(const struct tm_image *image, const struct tm_groups *groups, uint32_t node,
                      uint32_t *ret)
{
    const struct tms_file *file = image->file;
    bool python = groups->by == TM_BY_LINE || groups->by == TM_BY_FILE;

    if (python && tm_image_node_is_native(image, node)) {
        *ret = tm_image_python_site(image, node);
        return !groups->cumulative;
    }
    if (!python && !groups->cumulative && tm_image_node_is_native(image, node)) {
        *ret = tm_image_calling_site(image, node);
        return true;
    }
    *ret = node && file->nodes[node].site < file->n_sites ? image->site_map[file->nodes[node].site]
                                                          : TM_MODEL_NO_SITE;
    return true;
}

static bool group_tally(struct tm_image *image, struct tm_tally *tally, struct tm_groups *ret)
{
    const struct tms_file *file = image->file;
    struct tm_model *model = image->model;
    struct tm_tally *dense;
    uint32_t n_dense;
    bool ok;

    if (ret->by == TM_BY_TRACEBACK ? !tm_image_map_nodes(image) : !tm_model_key_sites(model))
        return false;
    n_dense = dense_size(model, ret->by);
    dense = calloc(n_dense, sizeof *dense);
    if (dense == NULL)
        return false;
    if (ret->cumulative)
        accumulate(file, tally);
    for (uint32_t n = 0; n < file->n_nodes; n++) {
        uint32_t site;
        if (tally[n].count == 0)
            continue;
        if (ret->by == TM_BY_TRACEBACK) {
            add(&dense[image->node_map[n]], tally[n]);
            continue;
        }
        if (!node_site(image, ret, n, &site))
            continue;
        add(&dense[site_key(model, ret->by, site)], tally[n]);
    }
    ok = gather(dense, n_dense, ret);
    free(dense);
    return ok;
}

static bool group_by_node(struct tm_image *image, struct tm_groups *ret, struct tms_error *error)
{
    struct tm_tally *tally = tm_image_tally(image, error);
    bool ok;

    if (tally == NULL)
        return false;
    ok = group_tally(image, tally, ret) || no_memory(error);
    free(tally);
    return ok;
}

/* --- by counters of sites, where there are no traces --- */

static bool group_stats(struct tm_image *image, struct tm_groups *ret)
{
    const struct tms_file *file = image->file;
    struct tm_tally *dense;
    uint32_t n_dense;
    bool ok;

    if (!tm_model_key_sites(image->model))
        return false;
    n_dense = dense_size(image->model, ret->by);
    dense = calloc(n_dense, sizeof *dense);
    if (dense == NULL)
        return false;
    for (uint32_t i = 0; i < file->n_stats; i++) {
        const struct tms_stat *stat = &file->stats[i];
        uint32_t site = stat->site < file->n_sites ? image->site_map[stat->site] : TM_MODEL_NO_SITE;
        if (stat->live_blocks && (!image->keep_stat || image->keep_stat[i]))
            add(&dense[site_key(image->model, ret->by, site)],
                (struct tm_tally){stat->live_bytes, stat->live_blocks});
    }
    ok = gather(dense, n_dense, ret);
    free(dense);
    return ok;
}

/* --- by address --- */

struct address_state {
    const struct tm_image *image;
    struct tm_group *items; /* one per row of the file; shared by the workers */
};

static bool address_rows(void *data, const struct tm_batch *batch)
{
    struct address_state *state = data;
    struct tm_group *item = state->items + batch->first_row;
    const uint8_t *keep = state->image->keep_node;

    for (uint32_t i = 0; i < batch->count; i++) {
        item[i].id = batch->column.address[i];
        item[i].bytes = batch->column.size_bytes[i];
        item[i].count = !keep || keep[batch->column.node[i]];
    }
    return true;
}

static int compare_groups(const void *a, const void *b)
{
    uint64_t x = ((const struct tm_group *)a)->id, y = ((const struct tm_group *)b)->id;
    return (x > y) - (x < y);
}

static bool group_by_address(struct tm_image *image, struct tm_groups *ret, struct tms_error *error)
{
    uint64_t n_rows = image->file->end.traces;
    struct address_state state = {image, NULL};
    void *states[TM_SCAN_THREADS_MAX];
    bool sorted = true;
    size_t kept = 0;

    state.items = malloc((n_rows + 1) * sizeof *state.items);
    if (state.items == NULL)
        return no_memory(error);
    for (unsigned i = 0; i < TM_SCAN_THREADS_MAX; i++)
        states[i] = &state;
    if (!tm_scan(image->file, TM_SCAN_ADDRESS | TM_SCAN_SIZE | TM_SCAN_NODE, address_rows, states,
                 tm_scan_threads(image->file), error)) {
        free(state.items);
        return false;
    }
    for (uint64_t i = 0; i < n_rows; i++) {
        if (state.items[i].count == 0)
            continue;
        sorted = sorted && (kept == 0 || state.items[kept - 1].id <= state.items[i].id);
        state.items[kept++] = state.items[i];
    }
    if (!sorted)
        qsort(state.items, kept, sizeof *state.items, compare_groups);
    ret->items = state.items;
    ret->n_items = kept;
    return true;
}

/* --- by another column --- */

struct column_state {
    const struct tm_image *image;
    enum tm_group_by by;
    struct tm_buckets buckets;
};

static uint64_t column_value(const struct column_state *state, const struct tm_batch *batch,
                             uint32_t i)
{
    const struct tms_file *file = state->image->file;
    uint32_t type;

    switch (state->by) {
    case TM_BY_DOMAIN:
        return batch->column.domain[i];
    case TM_BY_SIZE_CLASS:
        return tm_size_class(batch->column.size_bytes[i]);
    case TM_BY_THREAD:
        return batch->column.thread[i];
    case TM_BY_AGE:
        return batch->column.age[i];
    default:
        type = batch->column.type[i];
        if (type == 0 || type > file->n_types || file->types[type - 1] >= file->n_strings)
            return TM_MODEL_NO_STRING;
        return state->image->string_map[file->types[type - 1]];
    }
}

static bool column_rows(void *data, const struct tm_batch *batch)
{
    struct column_state *state = data;
    const uint8_t *keep = state->image->keep_node;

    for (uint32_t i = 0; i < batch->count; i++) {
        struct tm_tally amount;
        if (keep && !keep[batch->column.node[i]])
            continue;
        amount = tm_sampled_weight(batch->sample_mean_bytes, batch->column.size_bytes[i]);
        if (!tm_buckets_add(&state->buckets, column_value(state, batch, i), amount.bytes,
                            amount.count))
            return false;
    }
    return true;
}

static unsigned columns_of(enum tm_group_by by)
{
    switch (by) {
    case TM_BY_DOMAIN:
        return TM_SCAN_DOMAIN;
    case TM_BY_THREAD:
        return TM_SCAN_THREAD;
    case TM_BY_AGE:
        return TM_SCAN_AGE;
    case TM_BY_TYPE:
        return TM_SCAN_TYPE;
    default:
        return 0;
    }
}

static bool group_by_column(struct tm_image *image, struct tm_groups *ret, struct tms_error *error)
{
    struct column_state states[TM_SCAN_THREADS_MAX];
    void *pointers[TM_SCAN_THREADS_MAX];
    unsigned n_states = tm_scan_threads(image->file);
    bool ok;

    for (unsigned i = 0; i < n_states; i++) {
        states[i] = (struct column_state){.image = image, .by = ret->by};
        pointers[i] = &states[i];
    }
    ok = tm_scan(image->file, columns_of(ret->by) | TM_SCAN_SIZE | TM_SCAN_NODE, column_rows,
                 pointers, n_states, error);
    for (unsigned i = 1; ok && i < n_states; i++)
        ok = tm_buckets_merge(&states[0].buckets, &states[i].buckets) || no_memory(error);
    if (ok) {
        ret->items = tm_buckets_steal(&states[0].buckets, &ret->n_items);
        ok = ret->items != NULL || no_memory(error);
    }
    if (ok)
        qsort(ret->items, ret->n_items, sizeof *ret->items, compare_groups);
    for (unsigned i = 0; i < n_states; i++)
        tm_buckets_done(&states[i].buckets);
    return ok;
}

/* --- */

static bool refuse_stats(struct tms_error *error)
{
    memset(error, 0, sizeof *error);
    error->code = TMS_E_CORRUPT;
    snprintf(error->message, sizeof error->message, "does not contain traces, only stats");
    return false;
}

/* Whether a traceback has more than the frame that took the memory. Native frames are not counted
 * by the limit, and are no lines or files. */
static bool has_callers(const struct tm_image *image, enum tm_group_by by)
{
    bool counts_native = by == TM_BY_FUNCTION || by == TM_BY_MODULE;

    return tm_image_traceback_limit(image) >= 2 || (counts_native && image->file->n_modules != 0);
}

bool tm_groups_make(struct tm_image *image, enum tm_group_by by, unsigned flags,
                    struct tm_groups *ret, struct tms_error *error)
{
    struct tm_groups groups = {.by = by, .timestamp_ns = image->file->timestamp_ns};
    bool ok;

    groups.cumulative =
        (flags & TM_GROUP_CUMULATIVE) && tm_group_by_has_frames(by) && has_callers(image, by);
    if (!tm_image_has_traces(image)) {
        if (groups.cumulative || tm_group_by_needs_traces(by))
            return refuse_stats(error);
        ok = group_stats(image, &groups) || no_memory(error);
    } else if (by == TM_BY_ADDRESS) {
        ok = group_by_address(image, &groups, error);
    } else if (by <= TM_BY_TRACEBACK || by == TM_BY_MODULE) {
        ok = group_by_node(image, &groups, error);
    } else {
        ok = group_by_column(image, &groups, error);
    }
    if (!ok)
        return false;
    if (by != TM_BY_ADDRESS && tm_sampled_mean(image->file) != 0)
        for (size_t i = 0; i < groups.n_items; i++)
            groups.items[i].count = (groups.items[i].count + TM_SAMPLED_UNIT / 2) / TM_SAMPLED_UNIT;
    for (size_t i = 0; i < groups.n_items; i++) {
        groups.bytes = add_saturated(groups.bytes, groups.items[i].bytes);
        groups.count = add_saturated(groups.count, groups.items[i].count);
    }
    *ret = groups;
    return true;
}

void tm_groups_done(struct tm_groups *groups)
{
    free(groups->items);
    memset(groups, 0, sizeof *groups);
}

/* --- what an id stands for --- */

struct tm_group_label tm_group_describe(const struct tm_model *model, enum tm_group_by by,
                                        uint64_t id)
{
    struct tm_group_label label = {.file = {"", 0}, .function = {"", 0}};
    uint64_t key;

    switch (by) {
    case TM_BY_LINE:
        key = ((const uint64_t *)model->lines.items)[id];
        label.file = tm_model_string(model, (uint32_t)(key >> 32));
        label.line = (int32_t)(uint32_t)key;
        break;
    case TM_BY_FUNCTION:
        key = ((const uint64_t *)model->functions.items)[id];
        label.file = tm_model_string(model, (uint32_t)(key >> 32));
        label.function = tm_model_string(model, (uint32_t)key);
        break;
    case TM_BY_FILE:
    case TM_BY_TYPE:
    case TM_BY_MODULE:
        label.file = tm_model_string(model, (uint32_t)id);
        break;
    case TM_BY_TRACEBACK:
        label.node = (uint32_t)id;
        break;
    default:
        label.value = id;
        break;
    }
    return label;
}

static int compare_strings(struct tms_str a, struct tms_str b)
{
    /* UTF-8 sorts as its code points do, which is how str compares. */
    size_t n_bytes = a.n_bytes < b.n_bytes ? a.n_bytes : b.n_bytes;
    int order = memcmp(a.bytes, b.bytes, n_bytes);

    return order ? order : (a.n_bytes > b.n_bytes) - (a.n_bytes < b.n_bytes);
}

static int compare_sites(const struct tm_model *model, uint32_t a, uint32_t b)
{
    const struct tm_model_site *x = tm_model_site(model, a), *y = tm_model_site(model, b);
    int order = compare_strings(tm_model_string(model, x->file), tm_model_string(model, y->file));

    return order ? order : (x->line > y->line) - (x->line < y->line);
}

/* Tracebacks that are alike for so many frames are in the order of their ids: a file of a million
 * frames must not take a million steps for each pair. */
enum { COMPARED_FRAMES_MAX = 32 };

static int compare_tracebacks(const struct tm_model *model, uint32_t a, uint32_t b)
{
    uint32_t first_a = a, first_b = b;

    for (int n = 0; a != b && a != TM_MODEL_EMPTY && b != TM_MODEL_EMPTY; n++) {
        const struct tm_model_node *x = tm_model_node(model, a), *y = tm_model_node(model, b);
        int order = x->site == y->site ? 0 : compare_sites(model, x->site, y->site);
        if (order)
            return order;
        if (n == COMPARED_FRAMES_MAX)
            return (first_a > first_b) - (first_a < first_b);
        a = x->parent;
        b = y->parent;
    }
    return (a != TM_MODEL_EMPTY) - (b != TM_MODEL_EMPTY);
}

int tm_group_compare_ids(const struct tm_model *model, enum tm_group_by by, uint64_t a, uint64_t b)
{
    struct tm_group_label x, y;
    int order;

    if (a == b)
        return 0;
    x = tm_group_describe(model, by, a);
    y = tm_group_describe(model, by, b);
    if (by == TM_BY_TRACEBACK)
        return compare_tracebacks(model, x.node, y.node);
    order = compare_strings(x.file, y.file);
    if (order == 0)
        order = (x.line > y.line) - (x.line < y.line);
    if (order == 0)
        order = compare_strings(x.function, y.function);
    return order ? order : (x.value > y.value) - (x.value < y.value);
}
