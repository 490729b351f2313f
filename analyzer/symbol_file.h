// SPDX-License-Identifier: MIT
/*
 * One module's file with all that is known of its symbols: everything of
 * tm-analyze that calls libdw for native frames. An object belongs to one thread.
 */
#pragma once

#include <glib.h>

/* One frame; strings are interned by GLib and live as long as the process. */
typedef struct {
    const char *function; /* demangled; never NULL */
    const char *file;     /* NULL: unknown */
    int line;             /* 0: unknown */
} TmSymbol;

typedef struct TmSymbolFile TmSymbolFile;

typedef struct {
    const char *path;
    const char *build_id; /* hex; NULL: the module has none */
    guint64 extent_bytes; /* of its mappings, for modules without build-id */
    char *const *debug_dirs;
} TmSymbolRequest;

/* What the file cannot tell. */
typedef enum {
    TM_SYMBOL_LACKS_BUILD_ID = 1 << 0, /* only its size says that it is the right one */
    TM_SYMBOL_LACKS_SYMBOLS = 1 << 1,  /* it has symbols of exported functions at most */
    TM_SYMBOL_LACKS_SPLIT = 1 << 2,    /* .dwo files of units that were looked into are gone */
} TmSymbolLacks;

/* NULL with the reason: gone, changed, damaged. Without a file of its own, a separate debug file
 * that has the same build-id will do. */
TmSymbolFile *tm_symbol_file_open(const TmSymbolRequest *request, GError **error);
void tm_symbol_file_free(TmSymbolFile *file);

/* Frames of an address (less the load bias), innermost first: several where functions were
 * inlined. Of TmSymbol; empty where nothing is known. */
GArray *tm_symbol_file_find(TmSymbolFile *file, guint64 address);
/* What was seen to be missing until now. */
TmSymbolLacks tm_symbol_file_get_lacks(const TmSymbolFile *file);
