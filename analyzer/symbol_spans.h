// SPDX-License-Identifier: MIT
/*
 * Address ranges, each with what lies there; they may overlap where a linker
 * folded functions, or a file is damaged.
 */
#pragma once

#include <glib.h>

typedef struct TmSymbolSpans TmSymbolSpans;

TmSymbolSpans *tm_symbol_spans_new(void);
void tm_symbol_spans_free(TmSymbolSpans *spans);

/* [start, end) is where item n lies. Nothing may be added after the first search. */
void tm_symbol_spans_add(TmSymbolSpans *spans, guint64 start, guint64 end, guint n);

/* Of the ranges that hold the address the one that starts last. FALSE: none does. */
gboolean tm_symbol_spans_find(TmSymbolSpans *spans, guint64 address, guint *ret_n);
