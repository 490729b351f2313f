// SPDX-License-Identifier: MIT
/* What the parts of the pickle machine share: pickle_vm.c runs the opcodes, pickle_literal.c reads
 * numbers and strings, pickle_value.c holds the values. */
#pragma once

#include "analyzer/pickle_vm.h"

/* Lists, dicts and objects, which can still grow after they were memoized. */
typedef struct {
    TmValue *items;
    gsize n_items, capacity;
    TmValue class, arguments, state; /* objects only */
} Node;

struct TmPickle {
    const guint8 *data;
    gsize n_bytes, at;
    GArray *words;      /* guint64: bodies of immutable values */
    GArray *nodes;      /* of Node */
    GArray *stack;      /* of TmValue */
    GArray *marks;      /* guint: heights of the stack */
    GArray *memo;       /* of TmValue */
    GPtrArray *decoded; /* strings that are not in the input as they are */
    TmValue root;
    gboolean done;
    const char *complaint;
};

#define VALUE(kind, payload) ((TmValue)(payload) << 4 | (kind))
#define PAYLOAD(value) ((value) >> 4)

/* Notes what is wrong, the first time; FALSE, so that a caller can return what it returns. */
gboolean tm_pickle_complain(TmPickle *p, const char *text);

/* Input: bytes, a little-endian number of n_bytes, a line without its end. */
const guint8 *tm_pickle_take(TmPickle *p, guint64 n_bytes);
gboolean tm_pickle_take_le(TmPickle *p, guint n_bytes, guint64 *ret);
gboolean tm_pickle_take_line(TmPickle *p, const char **ret, gsize *ret_bytes);

/* Index of the first of n words, which become the body of an immutable value. */
gsize tm_pickle_add_words(TmPickle *p, const void *words, gsize n);

/* Put a value on the stack. Texts are borrowed. Always TRUE. */
gboolean tm_pickle_push(TmPickle *p, TmValue value);
gboolean tm_pickle_push_int(TmPickle *p, gint64 i);
gboolean tm_pickle_push_text(TmPickle *p, TmValueKind kind, const void *bytes, guint64 n_bytes);
gboolean tm_pickle_push_float(TmPickle *p, double d);

static inline guint64 tm_pickle_word(const TmPickle *p, gsize at)
{
    return g_array_index(p->words, guint64, at);
}

static inline Node *tm_pickle_node(const TmPickle *p, TmValue value)
{
    return &g_array_index(p->nodes, Node, PAYLOAD(value));
}

/* Runs an opcode that pushes a number or a string; *ret_known FALSE: it is another one. */
gboolean tm_pickle_literal(TmPickle *p, guint8 op, gboolean *ret_known);

gboolean tm_value_is_global(const TmPickle *p, TmValue value, const char *module, const char *name);
