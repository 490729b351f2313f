// SPDX-License-Identifier: MIT
/*
 * Which functions lie around an address. libdw's own search finds a unit by
 * .debug_aranges only, which clang leaves out, and reads the unit from its start
 * for each address; here units and their functions are read once and kept. An
 * object belongs to one thread, and to one Dwarf.
 */
#pragma once

#include <elfutils/libdw.h>
#include <glib.h>

typedef struct TmSymbolScopes TmSymbolScopes;

/* A compilation unit. */
typedef struct {
    Dwarf_Die skeleton; /* has the lines */
    Dwarf_Die die;      /* has the functions: the same, or that of the .dwo file */
} TmSymbolUnit;

TmSymbolScopes *tm_symbol_scopes_new(Dwarf *dwarf);
void tm_symbol_scopes_free(TmSymbolScopes *scopes);

/* Appends the function that has the address and those inlined into it there, outermost first (of
 * Dwarf_Die). Nothing where no function is known there; NULL where no unit is. The unit is the
 * object's. */
TmSymbolUnit *tm_symbol_scopes_find(TmSymbolScopes *scopes, Dwarf_Addr address, GArray *dies);

/* Whether a unit that was asked for has its functions in a .dwo file that was not found. */
gboolean tm_symbol_scopes_lack_split(const TmSymbolScopes *scopes);
