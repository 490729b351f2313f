// SPDX-License-Identifier: MIT
/* Metrics. */
#include "analyzer/metrics.h"

#include <inttypes.h>
#include <string.h>

#include "analyzer/core/size.h"
#include "analyzer/text.h"

static TmMetric read_metric(const struct tms_file *file, guint32 i)
{
    const struct tms_metric *from = &file->metrics[i];
    TmMetric metric = {.name = tms_file_string(file, from->name), .format = from->format};

    if (from->format == TMS_METRIC_PERCENT)
        metric.f = from->value.f;
    else
        metric.i = from->value.i;
    return metric;
}

static int compare_names(const void *a, const void *b)
{
    struct tms_str x = ((const TmMetric *)a)->name, y = ((const TmMetric *)b)->name;
    int order = memcmp(x.bytes, y.bytes, MIN(x.n_bytes, y.n_bytes));

    return order ? order : (x.n_bytes > y.n_bytes) - (x.n_bytes < y.n_bytes);
}

static TmMetric *find(GArray *metrics, guint n, struct tms_str name)
{
    TmMetric key = {.name = name};

    for (guint i = 0; i < n; i++) {
        TmMetric *metric = &g_array_index(metrics, TmMetric, i);
        if (compare_names(metric, &key) == 0)
            return metric;
    }
    return NULL;
}

GArray *tm_metrics_get(const struct tms_file *file, const struct tms_file *old)
{
    GArray *metrics = g_array_new(FALSE, FALSE, sizeof(TmMetric));
    guint n_new;

    for (guint32 i = 0; i < file->n_metrics; i++) {
        TmMetric metric = read_metric(file, i);
        g_array_append_val(metrics, metric);
    }
    n_new = metrics->len;
    for (guint32 i = 0; old && i < old->n_metrics; i++) {
        TmMetric then = read_metric(old, i);
        TmMetric *now = find(metrics, n_new, then.name);
        TmMetric gone = {.name = then.name, .format = then.format, .vanished = TRUE};

        if (now == NULL) {
            g_array_append_val(metrics, gone);
            now = &g_array_index(metrics, TmMetric, metrics->len - 1);
        }
        now->has_old = TRUE;
        now->old_i = then.i;
        now->old_f = then.f;
    }
    g_array_sort(metrics, compare_names);
    return metrics;
}

static void append_value(GString *out, enum tms_metric_format format, gint64 i, double f,
                         gboolean is_signed)
{
    char text[TM_SIZE_TEXT];

    if (format == TMS_METRIC_PERCENT)
        g_string_append_printf(out, is_signed ? "%+.1f%%" : "%.1f%%", f * 100);
    else if (format == TMS_METRIC_SIZE)
        g_string_append(out, tm_size_format(i, is_signed ? TM_SIZE_SIGNED : TM_SIZE_PLAIN, text));
    else
        g_string_append_printf(out, is_signed ? "%+" PRId64 : "%" PRId64, i);
}

void tm_metrics_append(GString *out, const struct tms_file *file, const struct tms_file *old,
                       gboolean color)
{
    g_autoptr(GArray) metrics = tm_metrics_get(file, old);

    if (metrics->len)
        g_string_append_c(out, '\n');
    for (guint i = 0; i < metrics->len; i++) {
        const TmMetric *metric = &g_array_index(metrics, TmMetric, i);
        g_autoptr(GString) value = g_string_new(NULL);

        append_value(value, metric->format, metric->i, metric->f, FALSE);
        tm_text_append_safe(out, metric->name);
        g_string_append(out, ": ");
        tm_text_append_styled(out, color, TM_STYLE_BOLD, value->str);
        if (metric->has_old) {
            gint64 diff = (gint64)((guint64)metric->i - (guint64)metric->old_i);
            g_string_append(out, " (");
            append_value(out, metric->format, diff, metric->f - metric->old_f, TRUE);
            g_string_append_c(out, ')');
        }
        g_string_append_c(out, '\n');
    }
}
