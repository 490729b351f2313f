// SPDX-License-Identifier: MIT
/* Values of a pickle: made by the machine, read by whoever wants to know what was in it. */
#include "analyzer/pickle_private.h"

#include <string.h>

gboolean tm_pickle_complain(TmPickle *p, const char *text)
{
    if (p->complaint == NULL)
        p->complaint = text;
    return FALSE;
}

/* --- input --- */

const guint8 *tm_pickle_take(TmPickle *p, guint64 n_bytes)
{
    const guint8 *from = p->data + p->at;

    if (n_bytes > p->n_bytes - p->at) {
        tm_pickle_complain(p, "the pickle is truncated");
        return NULL;
    }
    p->at += n_bytes;
    return from;
}

gboolean tm_pickle_take_le(TmPickle *p, guint n_bytes, guint64 *ret)
{
    const guint8 *from = tm_pickle_take(p, n_bytes);

    *ret = 0;
    for (guint i = 0; from && i < n_bytes; i++)
        *ret |= (guint64)from[i] << (8 * i);
    return from != NULL;
}

/* A line without its end. */
gboolean tm_pickle_take_line(TmPickle *p, const char **ret, gsize *ret_bytes)
{
    const guint8 *from = p->data + p->at;
    const guint8 *end = memchr(from, '\n', p->n_bytes - p->at);

    if (end == NULL)
        return tm_pickle_complain(p, "the pickle is truncated");
    *ret = (const char *)from;
    *ret_bytes = (gsize)(end - from);
    p->at += *ret_bytes + 1;
    if (*ret_bytes && from[*ret_bytes - 1] == '\r')
        --*ret_bytes;
    return TRUE;
}

/* --- values --- */

gsize tm_pickle_add_words(TmPickle *p, const void *words, gsize n)
{
    gsize at = p->words->len;

    g_array_append_vals(p->words, words, (guint)n);
    return at;
}

gboolean tm_pickle_push(TmPickle *p, TmValue value)
{
    g_array_append_val(p->stack, value);
    return TRUE;
}

gboolean tm_pickle_push_int(TmPickle *p, gint64 i)
{
    if (i >= -(G_GINT64_CONSTANT(1) << 58) && i < G_GINT64_CONSTANT(1) << 58)
        return tm_pickle_push(
            p, VALUE(TM_VALUE_INT, (guint64)i << 1)); /* Payload's low bit 0: inline. */
    return tm_pickle_push(p, VALUE(TM_VALUE_INT, (guint64)tm_pickle_add_words(p, &i, 1) << 1 | 1));
}

gboolean tm_pickle_push_text(TmPickle *p, TmValueKind kind, const void *bytes, guint64 n_bytes)
{
    guint64 body[2] = {(guint64)(guintptr)bytes, n_bytes};
    return tm_pickle_push(p, VALUE(kind, tm_pickle_add_words(p, body, 2)));
}

gboolean tm_pickle_push_float(TmPickle *p, double d)
{
    return tm_pickle_push(p, VALUE(TM_VALUE_FLOAT, tm_pickle_add_words(p, &d, 1)));
}

/* --- reading values --- */

gboolean tm_value_int(const TmPickle *p, TmValue value, gint64 *ret)
{
    guint64 payload = PAYLOAD(value);

    if (tm_value_kind(value) == TM_VALUE_BOOL)
        *ret = (gint64)payload;
    else if (tm_value_kind(value) != TM_VALUE_INT)
        return FALSE;
    else if (payload & 1)
        *ret = (gint64)tm_pickle_word(p, payload >> 1);
    else
        *ret = (gint64)value >> 5; /* The sign is in the value's top bit. */
    return TRUE;
}

gboolean tm_value_number(const TmPickle *p, TmValue value, double *ret)
{
    gint64 i;
    guint64 bits;

    if (tm_value_int(p, value, &i)) {
        *ret = (double)i;
        return TRUE;
    }
    if (tm_value_kind(value) != TM_VALUE_FLOAT)
        return FALSE;
    bits = tm_pickle_word(p, PAYLOAD(value));
    memcpy(ret, &bits, sizeof *ret);
    return TRUE;
}

gboolean tm_value_text(const TmPickle *p, TmValue value, const char **ret, gsize *ret_bytes)
{
    if (tm_value_kind(value) != TM_VALUE_STR && tm_value_kind(value) != TM_VALUE_BYTES)
        return FALSE;
    *ret = (const char *)(guintptr)tm_pickle_word(p, PAYLOAD(value));
    *ret_bytes = tm_pickle_word(p, PAYLOAD(value) + 1);
    return TRUE;
}

gboolean tm_value_items(const TmPickle *p, TmValue value, const TmValue **ret, gsize *ret_n)
{
    TmValueKind kind = tm_value_kind(value);

    if (kind == TM_VALUE_TUPLE) {
        *ret_n = tm_pickle_word(p, PAYLOAD(value));
        *ret = &g_array_index(p->words, TmValue, 0) + PAYLOAD(value) + 1;
        return TRUE;
    }
    if (kind != TM_VALUE_LIST && kind != TM_VALUE_DICT)
        return FALSE;
    *ret = tm_pickle_node(p, value)->items;
    *ret_n = tm_pickle_node(p, value)->n_items;
    return TRUE;
}

static gboolean text_is(const TmPickle *p, TmValue value, const char *wanted)
{
    const char *text;
    gsize n_bytes;

    return tm_value_text(p, value, &text, &n_bytes) && n_bytes == strlen(wanted) &&
           memcmp(text, wanted, n_bytes) == 0;
}

gboolean tm_value_get(const TmPickle *p, TmValue dict, const char *key, TmValue *ret)
{
    const TmValue *items;
    gsize n;

    if (tm_value_kind(dict) != TM_VALUE_DICT || !tm_value_items(p, dict, &items, &n))
        return FALSE;
    for (gsize i = n; i >= 2; i -= 2) {
        if (text_is(p, items[i - 2], key)) {
            *ret = items[i - 1];
            return TRUE;
        }
    }
    return FALSE;
}

gboolean tm_value_is_global(const TmPickle *p, TmValue value, const char *module, const char *name)
{
    return tm_value_kind(value) == TM_VALUE_GLOBAL &&
           text_is(p, tm_pickle_word(p, PAYLOAD(value)), module) &&
           text_is(p, tm_pickle_word(p, PAYLOAD(value) + 1), name);
}

gboolean tm_value_class_is(const TmPickle *p, TmValue object, const char *module, const char *name)
{
    return tm_value_kind(object) == TM_VALUE_OBJECT &&
           tm_value_is_global(p, tm_pickle_node(p, object)->class, module, name);
}

gboolean tm_value_attribute(const TmPickle *p, TmValue object, const char *name, TmValue *ret)
{
    TmValue state;
    const TmValue *items;
    gsize n;

    if (tm_value_kind(object) != TM_VALUE_OBJECT)
        return FALSE;
    state = tm_pickle_node(p, object)->state;
    /* With slots the state is (dict, dict of slots). */
    if (tm_value_kind(state) == TM_VALUE_TUPLE && tm_value_items(p, state, &items, &n) && n == 2)
        return tm_value_get(p, items[1], name, ret) || tm_value_get(p, items[0], name, ret);
    return tm_value_get(p, state, name, ret);
}

TmValue tm_value_arguments(const TmPickle *p, TmValue object)
{
    return tm_value_kind(object) == TM_VALUE_OBJECT ? tm_pickle_node(p, object)->arguments : 0;
}
