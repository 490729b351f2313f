// SPDX-License-Identifier: MIT
/* Ages of blocks. */
#include "analyzer/ages.h"

#include <stdlib.h>
#include <string.h>

#include "analyzer/core/sampled.h"
#include "analyzer/core/scan.h"
#include "analyzer/error.h"

/* Ages above are put together: a session has seldom more snapshots that anybody looks at. */
#define AGES_MAX 1024u
#define NOT_ASKED G_MAXUINT32

typedef struct {
    const TmSnapshot *snapshot;
    const guint32 *group_of_node;
    TmAges *ages;
} Counter;

static int compare_ids(const void *a, const void *b)
{
    guint64 x = *(const guint64 *)a, y = *(const guint64 *)b;
    return (x > y) - (x < y);
}

static guint32 find_id(const guint64 *ids, guint n, guint64 id)
{
    const guint64 *found = bsearch(&id, ids, n, sizeof *ids, compare_ids);
    return found ? (guint32)(found - ids) : NOT_ASKED;
}

static guint64 id_of_node(const TmSnapshot *snapshot, enum tm_group_by by, guint32 node)
{
    const struct tm_model *model = snapshot->image.model;
    guint32 site;

    if (by == TM_BY_TRACEBACK)
        return snapshot->image.node_map[node];
    if (by == TM_BY_LINE || by == TM_BY_FILE)
        site = tm_image_python_site(&snapshot->image, node);
    else
        site = tm_image_calling_site(&snapshot->image, node);
    if (by == TM_BY_LINE)
        return model->line_of_site[site];
    if (by == TM_BY_FUNCTION)
        return model->function_of_site[site];
    return by == TM_BY_MODULE ? tm_model_site(model, site)->module
                              : tm_model_site(model, site)->file;
}

static bool count_rows(void *state, const struct tm_batch *batch)
{
    Counter *counter = state;

    for (guint32 i = 0; i < batch->count; i++) {
        guint32 node = batch->column.node[i], group = counter->group_of_node[node];
        struct tm_tally amount;
        TmAges *ages;
        if (group == NOT_ASKED ||
            (counter->snapshot->image.keep_node && !counter->snapshot->image.keep_node[node]))
            continue;
        ages = &counter->ages[group];
        amount = tm_sampled_weight(batch->sample_mean_bytes, batch->column.size_bytes[i]);
        ages->bytes += amount.bytes;
        ages->count += amount.count;
        ages->bytes_of_age[MIN(batch->column.age[i], AGES_MAX - 1)] += amount.bytes;
    }
    return true;
}

TmAges *tm_ages_of(TmSnapshot *snapshot, enum tm_group_by by, const guint64 *ids, guint n,
                   GError **error)
{
    struct tms_error reason = {0};
    g_autofree guint32 *group_of_node = NULL;
    TmAges *ages;
    Counter counter;
    void *states[1] = {&counter};

    if (!tm_snapshot_has_ages(snapshot) || by > TM_BY_TRACEBACK ||
        (by == TM_BY_TRACEBACK && !tm_image_map_nodes(&snapshot->image)))
        return NULL;
    group_of_node = g_new(guint32, snapshot->file.n_nodes + 1);
    for (guint32 i = 0; i < MAX(snapshot->file.n_nodes, 1); i++)
        group_of_node[i] = find_id(ids, n, id_of_node(snapshot, by, i));
    ages = g_new0(TmAges, n);
    for (guint i = 0; i < n; i++) {
        ages[i].n_ages = AGES_MAX;
        ages[i].bytes_of_age = g_new0(guint64, AGES_MAX);
    }
    counter = (Counter){snapshot, group_of_node, ages};
    if (!tm_scan(&snapshot->file, TM_SCAN_NODE | TM_SCAN_SIZE | TM_SCAN_AGE, count_rows, states, 1,
                 &reason)) {
        tm_error_set_from_reader(error, &reason);
        tm_ages_free(ages, n);
        return NULL;
    }
    for (guint i = 0; i < n; i++) {
        if (tm_sampled_mean(&snapshot->file) != 0)
            ages[i].count = (ages[i].count + TM_SAMPLED_UNIT / 2) / TM_SAMPLED_UNIT;
        ages[i].before_first = ages[i].bytes_of_age[0];
    }
    return ages;
}

void tm_ages_free(TmAges *ages, guint n)
{
    for (guint i = 0; ages && i < n; i++)
        g_free(ages[i].bytes_of_age);
    g_free(ages);
}

char *tm_ages_text(const TmAges *ages)
{
    GString *text = g_string_new(NULL);
    g_autofree guint8 *shown = g_new0(guint8, ages->n_ages);

    for (guint part = 0; part < 3 && ages->bytes; part++) {
        guint best = 0;
        guint64 most = 0;
        for (guint i = 0; i < ages->n_ages; i++) {
            if (!shown[i] && ages->bytes_of_age[i] > most) {
                most = ages->bytes_of_age[i];
                best = i;
            }
        }
        if (most == 0)
            break;
        shown[best] = 1;
        g_string_append_printf(text, "%s%.0f %% ", part ? ", " : "",
                               100.0 * (double)most / (double)ages->bytes);
        if (best == 0)
            g_string_append(text, "before the first snapshot");
        else
            g_string_append_printf(text, "since snapshot %u", best);
    }
    return g_string_free(text, FALSE);
}
