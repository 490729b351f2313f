// SPDX-License-Identifier: MIT
#include "analyzer/symbol_table.h"

#include "analyzer/symbol_spans.h"

typedef struct {
    const char *name;
    guint64 start, end; /* equal: it has no size */
    guint64 limit;      /* end of its section */
    guint index;        /* in the file's table */
    guint8 binding;     /* 0 local, 1 weak, 2 global */
} Symbol;

struct TmSymbolTable {
    GArray *symbols;        /* of Symbol, the one to be preferred last */
    TmSymbolSpans *outside; /* global and weak ones, looked at first: labels lie within them */
    TmSymbolSpans *local;
    TmSymbolSpans *sizeless; /* up to whatever comes next */
};

/* Several names of one function: the global one, then the first. */
static int compare_preference(const void *a, const void *b)
{
    const Symbol *x = a, *y = b;

    if (x->binding != y->binding)
        return x->binding < y->binding ? -1 : 1;
    return (x->index < y->index) - (x->index > y->index);
}

static int compare_addresses(const void *a, const void *b)
{
    const guint64 *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* FALSE: not in a section that has code. */
static gboolean get_limit(Elf *elf, GElf_Word section, Dwarf_Addr bias, guint64 *ret_limit)
{
    GElf_Shdr header;
    Elf_Scn *scn = elf && section != SHN_UNDEF ? elf_getscn(elf, section) : NULL;

    if (scn == NULL || gelf_getshdr(scn, &header) == NULL || !(header.sh_flags & SHF_EXECINSTR))
        return FALSE;
    *ret_limit = header.sh_addr + header.sh_size + bias;
    return TRUE;
}

static gboolean read_symbol(Dwfl_Module *module, int i, gboolean with_labels, Symbol *ret)
{
    GElf_Sym sym;
    GElf_Addr address;
    GElf_Word section;
    Elf *elf;
    Dwarf_Addr bias;
    const char *name = dwfl_module_getsym_info(module, i, &sym, &address, &section, &elf, &bias);
    guint type = name ? GELF_ST_TYPE(sym.st_info) : STT_NOTYPE;
    guint binding = name ? GELF_ST_BIND(sym.st_info) : STB_LOCAL;

    if (name == NULL || *name == '\0')
        return FALSE;
    if (type != STT_FUNC && type != STT_GNU_IFUNC && !(type == STT_NOTYPE && with_labels))
        return FALSE;
    *ret =
        (Symbol){.name = name, .start = address, .end = address + sym.st_size, .index = (guint)i};
    ret->binding = binding == STB_LOCAL ? 0 : binding == STB_WEAK ? 1 : 2;
    return get_limit(elf, section, bias, &ret->limit);
}

/* Up to the next symbol of its section. */
static guint64 reach(const Symbol *symbol, const GArray *starts)
{
    guint low = 0, high = starts->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (g_array_index(starts, guint64, middle) <= symbol->start)
            low = middle + 1;
        else
            high = middle;
    }
    return low < starts->len ? MIN(g_array_index(starts, guint64, low), symbol->limit)
                             : symbol->limit;
}

TmSymbolTable *tm_symbol_table_new(Dwfl_Module *module, gboolean with_labels)
{
    TmSymbolTable *self = g_new0(TmSymbolTable, 1);
    g_autoptr(GArray) starts = g_array_new(FALSE, FALSE, sizeof(guint64));
    int n = dwfl_module_getsymtab(module);

    self->symbols = g_array_new(FALSE, FALSE, sizeof(Symbol));
    self->outside = tm_symbol_spans_new();
    self->local = tm_symbol_spans_new();
    self->sizeless = tm_symbol_spans_new();
    for (int i = 0; i < n; i++) {
        Symbol symbol;
        if (!read_symbol(module, i, with_labels, &symbol))
            continue;
        g_array_append_val(self->symbols, symbol);
        g_array_append_val(starts, symbol.start);
    }
    g_array_sort(self->symbols, compare_preference);
    g_array_sort(starts, compare_addresses);
    for (guint i = 0; i < self->symbols->len; i++) {
        const Symbol *symbol = &g_array_index(self->symbols, Symbol, i);
        if (symbol->start == symbol->end)
            tm_symbol_spans_add(self->sizeless, symbol->start, reach(symbol, starts), i);
        else
            tm_symbol_spans_add(symbol->binding ? self->outside : self->local, symbol->start,
                                symbol->end, i);
    }
    return self;
}

void tm_symbol_table_free(TmSymbolTable *table)
{
    if (table == NULL)
        return;
    tm_symbol_spans_free(table->outside);
    tm_symbol_spans_free(table->local);
    tm_symbol_spans_free(table->sizeless);
    g_array_unref(table->symbols);
    g_free(table);
}

const char *tm_symbol_table_find(TmSymbolTable *table, guint64 address)
{
    guint n;

    if (tm_symbol_spans_find(table->outside, address, &n) ||
        tm_symbol_spans_find(table->local, address, &n) ||
        tm_symbol_spans_find(table->sizeless, address, &n))
        return g_array_index(table->symbols, Symbol, n).name;
    return NULL;
}
