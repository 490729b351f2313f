// SPDX-License-Identifier: MIT
/*
 * Which functions lie around an address of a compilation unit. libdw's
 * dwarf_getscopes reads a unit from its start for each address; here that is
 * done once per unit. An object belongs to one thread, and to one Dwfl.
 */
#pragma once

#include <elfutils/libdw.h>
#include <glib.h>

typedef struct TmSymbolScopes TmSymbolScopes;

TmSymbolScopes *tm_symbol_scopes_new(void);
void tm_symbol_scopes_free(TmSymbolScopes *scopes);

/* Appends the function that has the address and those inlined into it there, outermost first (of
 * Dwarf_Die). Nothing where the unit has no function at the address. */
void tm_symbol_scopes_find(TmSymbolScopes *scopes, Dwarf_Die *unit, Dwarf_Addr address,
                           GArray *dies);
