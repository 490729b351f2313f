// SPDX-License-Identifier: MIT
#include "analyzer/symbol_scopes.h"

#include <dwarf.h>

/* Deeper than any source nests namespaces or blocks: a damaged file ends here. */
enum { MAX_DEPTH = 256 };

/* A part of a function: the compiler may put its cold code elsewhere. */
typedef struct {
    Dwarf_Addr start, end;
    Dwarf_Die function;
} Span;

struct TmSymbolScopes {
    GHashTable *units; /* Dwarf_Die.addr of the unit -> GArray * of Span, by start */
};

static void free_spans(void *spans)
{
    g_array_unref(spans);
}

TmSymbolScopes *tm_symbol_scopes_new(void)
{
    TmSymbolScopes *self = g_new0(TmSymbolScopes, 1);

    self->units = g_hash_table_new_full(NULL, NULL, NULL, free_spans);
    return self;
}

void tm_symbol_scopes_free(TmSymbolScopes *scopes)
{
    if (scopes == NULL)
        return;
    g_hash_table_unref(scopes->units);
    g_free(scopes);
}

/* --- the functions of a unit --- */

static void add_spans(GArray *spans, Dwarf_Die *function)
{
    Span span = {.function = *function};
    Dwarf_Addr base;
    ptrdiff_t offset = 0;

    /* Functions that the linker left out begin at 0, where no module has code. */
    while ((offset = dwarf_ranges(function, offset, &base, &span.start, &span.end)) > 0) {
        if (span.start > 0 && span.end > span.start)
            g_array_append_val(spans, span);
    }
}

/* clang leaves functions in their namespaces and classes; gcc takes them out. A function inside a
 * function (GNU C, Fortran) lies in its tree. */
static void add_functions(GArray *spans, Dwarf_Die *parent, int depth)
{
    Dwarf_Die die;

    if (depth > MAX_DEPTH || dwarf_child(parent, &die) != 0)
        return;
    do {
        switch (dwarf_tag(&die)) {
        case DW_TAG_subprogram:
            add_spans(spans, &die);
            add_functions(spans, &die, depth + 1);
            break;
        case DW_TAG_lexical_block:
        case DW_TAG_namespace:
        case DW_TAG_module:
        case DW_TAG_class_type:
        case DW_TAG_structure_type:
        case DW_TAG_union_type:
            add_functions(spans, &die, depth + 1);
            break;
        default:
            break;
        }
    } while (dwarf_siblingof(&die, &die) == 0);
}

static int compare_spans(const void *a, const void *b)
{
    const Span *x = a, *y = b;

    return (x->start > y->start) - (x->start < y->start);
}

static GArray *spans_of(TmSymbolScopes *self, Dwarf_Die *unit)
{
    GArray *spans = g_hash_table_lookup(self->units, unit->addr);

    if (spans)
        return spans;
    spans = g_array_new(FALSE, FALSE, sizeof(Span));
    add_functions(spans, unit, 0);
    g_array_sort(spans, compare_spans);
    g_hash_table_insert(self->units, unit->addr, spans);
    return spans;
}

/* The last that starts at or before the address, where that reaches it. */
static Span *find_span(GArray *spans, Dwarf_Addr address)
{
    guint low = 0, high = spans->len;
    Span *span;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (g_array_index(spans, Span, middle).start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    span = low ? &g_array_index(spans, Span, low - 1) : NULL;
    return span && address < span->end ? span : NULL;
}

/* --- what is inlined into a function --- */

static gboolean find_inner(Dwarf_Die *outer, Dwarf_Addr address, Dwarf_Die *ret_inner)
{
    if (dwarf_child(outer, ret_inner) != 0)
        return FALSE;
    do {
        int tag = dwarf_tag(ret_inner);
        /* A function inside a function has its own span, if any. */
        if ((tag == DW_TAG_inlined_subroutine || tag == DW_TAG_lexical_block ||
             tag == DW_TAG_try_block || tag == DW_TAG_catch_block) &&
            dwarf_haspc(ret_inner, address) > 0)
            return TRUE;
    } while (dwarf_siblingof(ret_inner, ret_inner) == 0);
    return FALSE;
}

void tm_symbol_scopes_find(TmSymbolScopes *scopes, Dwarf_Die *unit, Dwarf_Addr address,
                           GArray *dies)
{
    Span *span = find_span(spans_of(scopes, unit), address);
    Dwarf_Die scope, inner;

    if (span == NULL)
        return;
    scope = span->function;
    g_array_append_val(dies, scope);
    for (int depth = 0; depth < MAX_DEPTH && find_inner(&scope, address, &inner); depth++) {
        if (dwarf_tag(&inner) == DW_TAG_inlined_subroutine)
            g_array_append_val(dies, inner);
        scope = inner;
    }
}
