// SPDX-License-Identifier: MIT
/*
 * Functions of a symbol table by address. libdwfl goes through the whole table
 * for each address; here it is sorted once.
 */
#pragma once

#include <elfutils/libdwfl.h>
#include <glib.h>

typedef struct TmSymbolTable TmSymbolTable;

/* With labels, symbols without a type count, too: assembler code. Without .symtab what follows a
 * label may be anything's. */
TmSymbolTable *tm_symbol_table_new(Dwfl_Module *module, gboolean with_labels);
void tm_symbol_table_free(TmSymbolTable *table);

/* The function around the address, as the table spells it; the module's. NULL: it is in none. */
const char *tm_symbol_table_find(TmSymbolTable *table, guint64 address);
