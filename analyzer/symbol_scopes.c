// SPDX-License-Identifier: MIT
#include "analyzer/symbol_scopes.h"

#include <dwarf.h>

#include "analyzer/symbol_spans.h"

/* Deeper than any source nests namespaces or blocks: a damaged file ends here. */
enum { MAX_DEPTH = 256 };

/* Entries follow each other in the file, children before the next sibling. In a damaged one a
 * sibling may lie among the children, and each level would double the work. */
static gboolean is_ahead(const Dwarf_Die *die, const char **last)
{
    if (*last && (const char *)die->addr <= *last)
        return FALSE;
    *last = die->addr;
    return TRUE;
}

typedef struct {
    TmSymbolUnit unit; /* die is empty until read */
    gboolean is_split;
    GArray *functions;    /* of Dwarf_Die; NULL until read */
    TmSymbolSpans *spans; /* to the functions: the compiler may put cold code elsewhere */
} Unit;

struct TmSymbolScopes {
    Dwarf *dwarf;
    GArray *units; /* of Unit */
    TmSymbolSpans *spans;
    gboolean lacks_split;
};

/* --- the units --- */

static void clear_unit(void *data)
{
    Unit *unit = data;

    g_clear_pointer(&unit->functions, g_array_unref);
    g_clear_pointer(&unit->spans, tm_symbol_spans_free);
}

static void add_ranges(TmSymbolSpans *spans, Dwarf_Die *die, guint n)
{
    Dwarf_Addr base, start, end;
    ptrdiff_t offset = 0;

    while ((offset = dwarf_ranges(die, offset, &base, &start, &end)) > 0)
        tm_symbol_spans_add(spans, start, end, n);
}

TmSymbolScopes *tm_symbol_scopes_new(Dwarf *dwarf)
{
    TmSymbolScopes *self = g_new0(TmSymbolScopes, 1);
    Dwarf_CU *cu = NULL;
    uint8_t type;

    self->dwarf = dwarf;
    self->units = g_array_new(FALSE, FALSE, sizeof(Unit));
    self->spans = tm_symbol_spans_new();
    g_array_set_clear_func(self->units, clear_unit);
    for (;;) {
        Unit unit = {0};
        if (dwarf_get_units(dwarf, cu, &cu, NULL, &type, &unit.unit.skeleton, NULL) != 0)
            break;
        if (type != DW_UT_compile && type != DW_UT_skeleton)
            continue; /* types, and what units share */
        unit.is_split = type == DW_UT_skeleton;
        add_ranges(self->spans, &unit.unit.skeleton, self->units->len);
        g_array_append_val(self->units, unit);
    }
    return self;
}

void tm_symbol_scopes_free(TmSymbolScopes *scopes)
{
    if (scopes == NULL)
        return;
    g_array_unref(scopes->units);
    tm_symbol_spans_free(scopes->spans);
    g_free(scopes);
}

gboolean tm_symbol_scopes_lack_split(const TmSymbolScopes *scopes)
{
    return scopes->lacks_split;
}

/* --- the functions of a unit --- */

/* clang leaves functions in their namespaces and classes; gcc takes them out. A function inside a
 * function (GNU C, Fortran) lies in its tree. */
static void add_functions(Unit *unit, Dwarf_Die *parent, int depth, const char **last)
{
    Dwarf_Die die;

    if (depth > MAX_DEPTH || dwarf_child(parent, &die) != 0)
        return;
    do {
        if (!is_ahead(&die, last))
            return;
        switch (dwarf_tag(&die)) {
        case DW_TAG_subprogram:
            add_ranges(unit->spans, &die, unit->functions->len);
            g_array_append_val(unit->functions, die);
            add_functions(unit, &die, depth + 1, last);
            break;
        case DW_TAG_lexical_block:
        case DW_TAG_namespace:
        case DW_TAG_module:
        case DW_TAG_class_type:
        case DW_TAG_structure_type:
        case DW_TAG_union_type:
            add_functions(unit, &die, depth + 1, last);
            break;
        default:
            break;
        }
    } while (dwarf_siblingof(&die, &die) == 0);
}

/* The unit in the .dwo file, where there is one. */
static void open_split(TmSymbolScopes *self, Unit *unit)
{
    Dwarf_Die split;

    if (dwarf_cu_info(unit->unit.skeleton.cu, NULL, NULL, NULL, &split, NULL, NULL, NULL) == 0 &&
        dwarf_tag(&split) == DW_TAG_compile_unit)
        unit->unit.die = split;
    else
        self->lacks_split = TRUE;
}

static void read_unit(TmSymbolScopes *self, Unit *unit)
{
    const char *last = NULL;

    unit->functions = g_array_new(FALSE, FALSE, sizeof(Dwarf_Die));
    unit->spans = tm_symbol_spans_new();
    unit->unit.die = unit->unit.skeleton;
    if (unit->is_split)
        open_split(self, unit);
    add_functions(unit, &unit->unit.die, 0, &last);
}

/* --- what is inlined into a function --- */

/* Appends the functions inlined there. FALSE: there are none. Blocks overlap after link-time
 * optimization, so that one that has the address but nothing inlined is not the end. */
static gboolean add_inlined(Dwarf_Die *outer, Dwarf_Addr address, int depth, const char **last,
                            GArray *dies)
{
    Dwarf_Die die;

    if (depth > MAX_DEPTH || dwarf_child(outer, &die) != 0)
        return FALSE;
    do {
        if (!is_ahead(&die, last))
            return FALSE;
        switch (dwarf_tag(&die)) {
        case DW_TAG_inlined_subroutine:
            if (dwarf_haspc(&die, address) <= 0)
                break;
            g_array_append_val(dies, die);
            add_inlined(&die, address, depth + 1, last, dies);
            return TRUE;
        case DW_TAG_lexical_block:
        case DW_TAG_try_block:
        case DW_TAG_catch_block:
            if (dwarf_haspc(&die, address) > 0 && add_inlined(&die, address, depth + 1, last, dies))
                return TRUE;
            break;
        default: /* A function inside a function has its own span, if any. */
            break;
        }
    } while (dwarf_siblingof(&die, &die) == 0);
    return FALSE;
}

TmSymbolUnit *tm_symbol_scopes_find(TmSymbolScopes *scopes, Dwarf_Addr address, GArray *dies)
{
    const char *last = NULL;
    Dwarf_Die function;
    Unit *unit;
    guint n;

    if (!tm_symbol_spans_find(scopes->spans, address, &n))
        return NULL;
    unit = &g_array_index(scopes->units, Unit, n);
    if (unit->functions == NULL)
        read_unit(scopes, unit);
    if (!tm_symbol_spans_find(unit->spans, address, &n))
        return &unit->unit;
    function = g_array_index(unit->functions, Dwarf_Die, n);
    g_array_append_val(dies, function);
    add_inlined(&function, address, 0, &last, dies);
    return &unit->unit;
}
