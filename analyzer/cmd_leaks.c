// SPDX-License-Identifier: MIT
/* tm-analyze leaks FILE...: what grows steadily over a series. */
#include <inttypes.h>
#include <stdlib.h>

#include "analyzer/ages.h"
#include "analyzer/command.h"
#include "analyzer/core/size.h"
#include "analyzer/document.h"
#include "analyzer/output.h"
#include "analyzer/render.h"
#include "analyzer/series.h"
#include "analyzer/text.h"
#include "analyzer/trend.h"

#define NOT_GIVEN (-1)

static int warm_up_option = NOT_GIVEN;
static double confidence_option = 0.8;
static guint64 least_growth_bytes = 4096;

static gboolean parse_least_growth(const char *name, const char *value, void *data, GError **error)
{
    (void)data;
    if (tm_parse_size(value, &least_growth_bytes))
        return TRUE;
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "%s: %s is not a size", name,
                value);
    return FALSE;
}

static const GOptionEntry entries[] = {
    {"warm-up", 0, 0, G_OPTION_ARG_INT, &warm_up_option,
     "Ignore the first N snapshots (default: those before the growth has settled)", "N"},
    {"confidence", 0, 0, G_OPTION_ARG_DOUBLE, &confidence_option,
     "How sure to be, from 0 to 1 (default: 0.8)", "P"},
    {"min-growth", 0, 0, G_OPTION_ARG_CALLBACK, (void *)parse_least_growth,
     "List what grew by SIZE or more; the rest is only counted (default: 4K)", "SIZE"},
    G_OPTION_ENTRY_NULL,
};

typedef struct {
    const TmSeriesRow *row;
    TmTrend trend; /* slope in bytes per hour */
    gint64 growth, count_growth;
    const TmAges *ages;
} Leak;

typedef struct {
    TmSession *session;
    const TmOptions *options;
    TmSeries *series;
    guint warm_up;
    GArray *leaks; /* of Leak, the fastest first */
    guint n_small; /* that grew as steadily, but by less than --min-growth */
    TmAges *ages;
    guint n_shown;
} Leaks;

/* Descending by rate, then by growth, then by key, so that the order is the same every time. */
static int compare_leaks(const void *a, const void *b, void *model_and_by)
{
    const Leak *x = a, *y = b;
    const Leaks *leaks = model_and_by;

    if (x->trend.slope != y->trend.slope)
        return x->trend.slope < y->trend.slope ? 1 : -1;
    if (x->growth != y->growth)
        return x->growth < y->growth ? 1 : -1;
    return tm_group_compare_ids(&leaks->session->model, leaks->options->by, x->row->id, y->row->id);
}

static gboolean is_leak(const Leak *leak)
{
    return leak->growth > 0 && leak->trend.slope > 0 && leak->trend.confidence >= confidence_option;
}

static void find_leaks(Leaks *leaks)
{
    const TmSeries *series = leaks->series;
    guint from = leaks->warm_up, n = series->n - from;
    g_autofree double *bytes = g_new(double, n);

    leaks->leaks = g_array_new(FALSE, TRUE, sizeof(Leak));
    for (guint i = 0; i < series->rows->len; i++) {
        const TmSeriesRow *row = &g_array_index(series->rows, TmSeriesRow, i);
        Leak leak = {.row = row,
                     .growth = (gint64)(row->bytes[series->n - 1] - row->bytes[from]),
                     .count_growth = (gint64)(row->count[series->n - 1] - row->count[from])};

        if (leak.growth <= 0)
            continue;
        for (guint s = 0; s < n; s++)
            bytes[s] = (double)row->bytes[from + s];
        leak.trend = tm_trend_of(series->hours + from, bytes, n);
        if (!is_leak(&leak))
            continue;
        if ((guint64)leak.growth < least_growth_bytes)
            leaks->n_small++;
        else
            g_array_append_val(leaks->leaks, leak);
    }
    g_array_sort_with_data(leaks->leaks, compare_leaks, leaks);
    leaks->n_shown = MIN(leaks->leaks->len, (guint)leaks->options->number);
}

static int compare_u64(const void *a, const void *b)
{
    guint64 x = *(const guint64 *)a, y = *(const guint64 *)b;
    return (x > y) - (x < y);
}

static gboolean find_ages(Leaks *leaks, GError **error)
{
    g_autofree guint64 *ids = g_new(guint64, leaks->n_shown + 1);
    GError *reason = NULL;

    for (guint i = 0; i < leaks->n_shown; i++)
        ids[i] = g_array_index(leaks->leaks, Leak, i).row->id;
    qsort(ids, leaks->n_shown, sizeof *ids, compare_u64);
    leaks->ages = tm_ages_of(tm_session_get(leaks->session, leaks->series->n - 1),
                             leaks->options->by, ids, leaks->n_shown, &reason);
    if (reason) {
        g_propagate_error(error, reason);
        return FALSE;
    }
    for (guint i = 0; leaks->ages && i < leaks->n_shown; i++) {
        Leak *leak = &g_array_index(leaks->leaks, Leak, i);
        guint64 *at = bsearch(&leak->row->id, ids, leaks->n_shown, sizeof *ids, compare_u64);
        leak->ages = &leaks->ages[at - ids];
    }
    return TRUE;
}

/* --- text --- */

static void append_header(GString *out, const Leaks *leaks)
{
    const TmSeries *series = leaks->series;
    g_autofree char *now =
        tm_text_timestamp(tm_session_get(leaks->session, series->n - 1)->file.timestamp_ns);
    guint64 seconds =
        (guint64)((series->hours[series->n - 1] - series->hours[leaks->warm_up]) * 3600 + 0.5);

    tm_text_append_styled(out, leaks->options->color, TM_STYLE_BOLD, now);
    g_string_append_printf(out,
                           ": %u leak%s per %s\n"
                           "(%u snapshots over %" PRIu64 ":%02u:%02u, "
                           "%u more treated as warm-up)\n",
                           leaks->leaks->len, leaks->leaks->len == 1 ? "" : "s",
                           tm_render_noun(leaks->options->by), series->n - leaks->warm_up,
                           seconds / 3600, (guint)(seconds / 60 % 60), (guint)(seconds % 60),
                           leaks->warm_up);
}

static void append_leak(GString *out, const Leaks *leaks, guint rank)
{
    const Leak *leak = &g_array_index(leaks->leaks, Leak, rank);
    const TmOptions *options = leaks->options;
    guint last = leaks->series->n - 1;
    char rate[TM_SIZE_TEXT], size[TM_SIZE_TEXT], growth[TM_SIZE_TEXT];
    double percent = 100 * leak->trend.confidence;

    g_string_append_printf(out, "#%u: ", rank + 1);
    tm_render_key(out, &leaks->session->model, options->by, leak->row->id, options->color,
                  options->filename_parts);
    g_string_append(out, ": ");
    tm_size_format((gint64)leak->trend.slope, TM_SIZE_SIGNED, rate);
    tm_text_append_styled(out, options->color, TM_STYLE_BOLD_YELLOW, rate);
    tm_size_format((gint64)leak->row->bytes[last], TM_SIZE_PLAIN, size);
    tm_size_format(leak->growth, TM_SIZE_SIGNED, growth);
    g_string_append_printf(out, "/hour, confidence%s%.0f %%\n",
                           /* Rounding must not make a certainty of it. */
                           percent > 99 ? ">" : "=", MIN(percent, 99));
    g_string_append_printf(
        out, "    size=%s (%s), count=%" PRIu64 " (%+" PRId64 "), grew in %u of %u intervals\n",
        size, growth, leak->row->count[last], leak->count_growth, leak->trend.rises,
        leak->trend.intervals);
    if (leak->ages) {
        g_autofree char *ages = tm_ages_text(leak->ages);
        g_string_append_printf(out, "    allocated: %s\n", ages);
    }
}

static void write_text(const Leaks *leaks)
{
    g_autoptr(GString) out = g_string_new(NULL);

    append_header(out, leaks);
    for (guint i = 0; i < leaks->n_shown; i++)
        append_leak(out, leaks, i);
    if (leaks->leaks->len > leaks->n_shown)
        g_string_append_printf(out, "%u more\n", leaks->leaks->len - leaks->n_shown);
    if (leaks->leaks->len == 0)
        g_string_append(out, "Nothing grew steadily.\n");
    if (leaks->n_small) {
        char least[TM_SIZE_TEXT];
        g_string_append_printf(out, "%u more grew steadily, but by less than %s each\n",
                               leaks->n_small,
                               tm_size_format((gint64)least_growth_bytes, TM_SIZE_PLAIN, least));
    }
    if (leaks->series->n - leaks->warm_up < 4)
        g_string_append_printf(out,
                               "With %u snapshots the confidence cannot be above 83 %%: "
                               "take more.\n",
                               leaks->series->n - leaks->warm_up);
    g_string_append_c(out, '\n');
    fwrite(out->str, 1, out->len, stdout);
}

/* --- tables --- */

static void add_leak(TmTable *table, const Leaks *leaks, guint rank)
{
    const Leak *leak = &g_array_index(leaks->leaks, Leak, rank);
    guint last = leaks->series->n - 1;

    tm_table_u64(table, rank + 1);
    tm_output_group(table, &leaks->session->model, leaks->options->by, leak->row->id);
    tm_table_double(table, leak->trend.slope);
    tm_table_double(table, leak->trend.confidence);
    tm_table_u64(table, leak->trend.rises);
    tm_table_u64(table, leak->trend.intervals);
    tm_table_u64(table, leak->row->bytes[last]);
    tm_table_i64(table, leak->growth);
    tm_table_u64(table, leak->row->count[last]);
    tm_table_i64(table, leak->count_growth);
    if (leak->ages)
        tm_table_u64(table, leak->ages->before_first);
    else
        tm_table_null(table);
}

static void add_ages(TmTable *table, const Leaks *leaks, guint rank)
{
    const TmAges *ages = g_array_index(leaks->leaks, Leak, rank).ages;

    for (guint i = 0; ages && i < ages->n_ages; i++) {
        if (ages->bytes_of_age[i] == 0)
            continue;
        tm_table_u64(table, rank + 1);
        tm_table_u64(table, i);
        tm_table_u64(table, ages->bytes_of_age[i]);
    }
}

static void write_document(const Leaks *leaks)
{
    g_autoptr(TmDocument) document = tm_document_new("leaks");
    TmTable *table, *ages, *snapshots;

    tm_document_string(document, "group_by", tm_group_by_name(leaks->options->by));
    tm_document_u64(document, "warm_up", leaks->warm_up);
    tm_document_u64(document, "leaks", leaks->leaks->len);
    tm_document_u64(document, "min_growth", least_growth_bytes);
    tm_document_u64(document, "smaller_leaks", leaks->n_small);
    table = tm_document_table(
        document, "items",
        "rank file line function traceback value bytes_per_hour confidence rises intervals size "
        "size_diff count count_diff size_before_first_snapshot");
    ages = tm_document_table(document, "ages", "rank age size");
    snapshots =
        tm_document_table(document, "snapshots", "snapshot path timestamp timestamp_ns pid");
    for (guint i = 0; i < leaks->n_shown; i++) {
        add_leak(table, leaks, i);
        add_ages(ages, leaks, i);
    }
    for (guint i = 0; i < leaks->series->n; i++)
        tm_output_snapshot(snapshots, i, tm_session_get(leaks->session, i));
    tm_output_document(document, leaks->options->output);
}

/* --- */

static gboolean exceeded(const Leaks *leaks)
{
    for (guint i = 0; leaks->options->has_fail_over && i < leaks->leaks->len; i++) {
        if ((guint64)g_array_index(leaks->leaks, Leak, i).growth > leaks->options->fail_over_bytes)
            return TRUE;
    }
    return FALSE;
}

static TmExit run_series(Leaks *leaks, GError **error)
{
    TmSeries *series = leaks->series;

    leaks->warm_up = warm_up_option != NOT_GIVEN
                         ? (guint)warm_up_option
                         : tm_trend_warm_up(series->hours, series->bytes, series->n);
    if (series->n < leaks->warm_up + 3) {
        tm_error_usage(error, "leaks needs three snapshots or more after the warm-up");
        return TM_EXIT_USAGE;
    }
    find_leaks(leaks);
    if (!find_ages(leaks, error))
        return TM_EXIT_DATA;
    if (leaks->options->output == TM_OUTPUT_TEXT)
        write_text(leaks);
    else
        write_document(leaks);
    return exceeded(leaks) ? TM_EXIT_FAIL_OVER : TM_EXIT_OK;
}

static TmExit run(const TmOptions *options, GError **error)
{
    g_autoptr(TmSession) session = NULL;
    g_autoptr(TmSeries) series = NULL;
    Leaks leaks = {.options = options};
    TmExit status;

    if (options->by == TM_BY_ADDRESS || warm_up_option < NOT_GIVEN ||
        !(confidence_option >= 0 && confidence_option <= 1)) {
        tm_error_usage(error, options->by == TM_BY_ADDRESS
                                  ? "leaks cannot group by address"
                                  : "--warm-up and --confidence take no such number");
        return TM_EXIT_USAGE;
    }
    session = tm_session_open(options->files, TM_PROGRESS_LONG, error);
    if (session == NULL)
        return TM_EXIT_DATA;
    if (session->snapshots->len < 3) {
        tm_error_usage(error, "leaks needs three snapshots or more; for two there is diff");
        return TM_EXIT_USAGE;
    }
    if (!tm_session_filter(session, (const void *)options->filters->data, options->filters->len,
                           error) ||
        (series = tm_series_new(session, options, error)) == NULL)
        return TM_EXIT_DATA;
    leaks.session = session;
    leaks.series = series;
    status = run_series(&leaks, error);
    tm_ages_free(leaks.ages, leaks.n_shown);
    g_clear_pointer(&leaks.leaks, g_array_unref);
    return status;
}

const TmCommand tm_cmd_leaks = {
    .name = "leaks",
    .takes = TM_TAKES_GROUPING | TM_TAKES_FILTERS | TM_TAKES_DISPLAY | TM_TAKES_FAIL_OVER |
             TM_TAKES_OUTPUT,
    .parameters = "FILE FILE FILE...",
    .summary = "Shows what grows steadily over a series of snapshots.",
    .extra = entries,
    .run = run,
};
