// SPDX-License-Identifier: MIT
/*
 * Native frames: from the addresses that snapshots hold to functions, files and
 * lines, by the modules' own files. A file that is not the one that was traced
 * (its build-id differs) is not looked into.
 */
#pragma once

#include <glib.h>

#include "analyzer/session.h"

/* Set by the command line before a session is opened. */
typedef struct {
    char **debug_dirs;   /* --debug-dir; NULL: none but the usual places */
    gboolean debuginfod; /* --debuginfod: servers of DEBUGINFOD_URLS may be asked */
    gboolean off;        /* --no-symbols: addresses only */
} TmSymbolSettings;
extern TmSymbolSettings tm_symbolize_settings;

typedef struct TmSymbols TmSymbols;

/* Resolves the native frames of all snapshots of the session, each address once, and puts the
 * results into the images. Modules that could not be used are named on stderr. NULL: there are no
 * native frames. What is returned must outlive the session's model. */
TmSymbols *tm_symbolize(TmSession *session);
void tm_symbolize_free(TmSymbols *symbols);
