// SPDX-License-Identifier: MIT
#include "analyzer/symbol_spans.h"

/* Ranges that hold an address and start before the last one that does: no linker makes that many,
 * and in a damaged file a search must end. */
enum { MAX_STEPS = 1000 };

typedef struct {
    guint64 start, end;
    guint64 reach; /* the furthest end of this and all before it */
    guint n;
} Span;

struct TmSymbolSpans {
    GArray *list; /* of Span, by start once sorted */
    gboolean sorted;
};

TmSymbolSpans *tm_symbol_spans_new(void)
{
    TmSymbolSpans *self = g_new0(TmSymbolSpans, 1);

    self->list = g_array_new(FALSE, FALSE, sizeof(Span));
    return self;
}

void tm_symbol_spans_free(TmSymbolSpans *spans)
{
    g_array_unref(spans->list);
    g_free(spans);
}

void tm_symbol_spans_add(TmSymbolSpans *spans, guint64 start, guint64 end, guint n)
{
    Span span = {start, end, end, n};

    /* What the linker left out begins at 0, where no module has code, or wraps around. */
    if (start > 0 && start < end)
        g_array_append_val(spans->list, span);
}

static int compare(const void *a, const void *b)
{
    const Span *x = a, *y = b;

    if (x->start != y->start)
        return x->start > y->start ? 1 : -1;
    if (x->end != y->end) /* the narrower one is found first */
        return x->end < y->end ? 1 : -1;
    return (x->n > y->n) - (x->n < y->n);
}

static void sort(TmSymbolSpans *self)
{
    guint64 reach = 0;

    g_array_sort(self->list, compare);
    for (guint i = 0; i < self->list->len; i++) {
        Span *span = &g_array_index(self->list, Span, i);
        reach = span->reach = MAX(reach, span->end);
    }
    self->sorted = TRUE;
}

gboolean tm_symbol_spans_find(TmSymbolSpans *spans, guint64 address, guint *ret_n)
{
    guint low = 0, high;

    if (!spans->sorted)
        sort(spans);
    high = spans->list->len;
    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (g_array_index(spans->list, Span, middle).start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    for (guint step = 0; low > 0 && step < MAX_STEPS; step++) {
        const Span *span = &g_array_index(spans->list, Span, --low);
        if (address >= span->reach)
            return FALSE;
        if (address < span->end) {
            *ret_n = span->n;
            return TRUE;
        }
    }
    return FALSE;
}
