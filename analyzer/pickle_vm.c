// SPDX-License-Identifier: MIT
/*
 * The pickle machine. Opcodes and their arguments are those that CPython's
 * Lib/pickletools.py documents.
 */
#include "analyzer/pickle_vm.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "analyzer/error.h"

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

static gboolean complain(TmPickle *p, const char *text)
{
    if (p->complaint == NULL)
        p->complaint = text;
    return FALSE;
}

/* --- input --- */

static const guint8 *take(TmPickle *p, guint64 n_bytes)
{
    const guint8 *from = p->data + p->at;

    if (n_bytes > p->n_bytes - p->at) {
        complain(p, "the pickle is truncated");
        return NULL;
    }
    p->at += n_bytes;
    return from;
}

static gboolean take_le(TmPickle *p, guint n_bytes, guint64 *ret)
{
    const guint8 *from = take(p, n_bytes);

    *ret = 0;
    for (guint i = 0; from && i < n_bytes; i++)
        *ret |= (guint64)from[i] << (8 * i);
    return from != NULL;
}

/* A line without its end. */
static gboolean take_line(TmPickle *p, const char **ret, gsize *ret_bytes)
{
    const guint8 *from = p->data + p->at;
    const guint8 *end = memchr(from, '\n', p->n_bytes - p->at);

    if (end == NULL)
        return complain(p, "the pickle is truncated");
    *ret = (const char *)from;
    *ret_bytes = (gsize)(end - from);
    p->at += *ret_bytes + 1;
    if (*ret_bytes && from[*ret_bytes - 1] == '\r')
        --*ret_bytes;
    return TRUE;
}

/* --- values --- */

static gsize add_words(TmPickle *p, const void *words, gsize n)
{
    gsize at = p->words->len;

    g_array_append_vals(p->words, words, (guint)n);
    return at;
}

static guint64 word(const TmPickle *p, gsize at)
{
    return g_array_index(p->words, guint64, at);
}

static gboolean push(TmPickle *p, TmValue value)
{
    g_array_append_val(p->stack, value);
    return TRUE;
}

static gboolean push_int(TmPickle *p, gint64 i)
{
    if (i >= -(G_GINT64_CONSTANT(1) << 58) && i < G_GINT64_CONSTANT(1) << 58)
        return push(p, VALUE(TM_VALUE_INT, (guint64)i << 1)); /* Payload's low bit 0: inline. */
    return push(p, VALUE(TM_VALUE_INT, (guint64)add_words(p, &i, 1) << 1 | 1));
}

static gboolean push_text(TmPickle *p, TmValueKind kind, const void *bytes, guint64 n_bytes)
{
    guint64 body[2] = {(guint64)(guintptr)bytes, n_bytes};
    return push(p, VALUE(kind, add_words(p, body, 2)));
}

static gboolean push_float(TmPickle *p, double d)
{
    return push(p, VALUE(TM_VALUE_FLOAT, add_words(p, &d, 1)));
}

static gboolean push_node(TmPickle *p, TmValueKind kind)
{
    Node node = {0};

    g_array_append_val(p->nodes, node);
    return push(p, VALUE(kind, p->nodes->len - 1));
}

static Node *node_of(const TmPickle *p, TmValue value)
{
    return &g_array_index(p->nodes, Node, PAYLOAD(value));
}

static void node_append(Node *node, const TmValue *items, gsize n)
{
    if (n == 0)
        return;
    if (node->n_items + n > node->capacity) {
        node->capacity = MAX(node->n_items + n, node->capacity * 2);
        node->items = g_renew(TmValue, node->items, node->capacity);
    }
    memcpy(node->items + node->n_items, items, n * sizeof *items);
    node->n_items += n;
}

/* --- the stack --- */

/* The lowest index that may be popped: the topmost mark protects what is below it. */
static gboolean pop(TmPickle *p, TmValue *ret)
{
    guint floor = p->marks->len ? g_array_index(p->marks, guint, p->marks->len - 1) : 0;

    if (p->stack->len <= floor)
        return complain(p, "the pickle takes a value that is not there");
    *ret = g_array_index(p->stack, TmValue, p->stack->len - 1);
    g_array_set_size(p->stack, p->stack->len - 1);
    return TRUE;
}

static gboolean top(TmPickle *p, TmValue *ret)
{
    if (!pop(p, ret))
        return FALSE;
    return push(p, *ret);
}

/* Height of the topmost mark, which goes. */
static gboolean pop_mark(TmPickle *p, guint *ret)
{
    if (p->marks->len == 0)
        return complain(p, "the pickle takes a mark that is not there");
    *ret = g_array_index(p->marks, guint, p->marks->len - 1);
    g_array_set_size(p->marks, p->marks->len - 1);
    return TRUE;
}

static const TmValue *above(const TmPickle *p, guint height)
{
    return &g_array_index(p->stack, TmValue, 0) + height;
}

static gboolean make_tuple(TmPickle *p, guint height)
{
    guint64 n;
    gsize at;

    if (p->stack->len < height)
        return complain(p, "the pickle takes a value that is not there");
    n = p->stack->len - height;
    at = add_words(p, &n, 1);
    add_words(p, above(p, height), n);
    g_array_set_size(p->stack, height);
    return push(p, VALUE(TM_VALUE_TUPLE, at));
}

static gboolean make_small_tuple(TmPickle *p, guint n)
{
    guint floor = p->marks->len ? g_array_index(p->marks, guint, p->marks->len - 1) : 0;

    if (p->stack->len < floor + n)
        return complain(p, "the pickle takes a value that is not there");
    return make_tuple(p, p->stack->len - n);
}

/* Appends what is above `height` to the list or dict just below it. */
static gboolean extend(TmPickle *p, guint height, TmValueKind kind)
{
    gsize n;
    TmValue target;

    if (height == 0 || p->stack->len < height)
        return complain(p, "the pickle takes a value that is not there");
    n = p->stack->len - height;
    target = g_array_index(p->stack, TmValue, height - 1);
    if (kind == TM_VALUE_DICT && n % 2)
        return complain(p, "the pickle has a key without a value");
    if (tm_value_kind(target) == kind)
        node_append(node_of(p, target), above(p, height), n);
    else if (tm_value_kind(target) != TM_VALUE_OBJECT) /* Of subclasses the items are dropped. */
        return complain(p, "the pickle adds items to what is no container");
    g_array_set_size(p->stack, height);
    return TRUE;
}

static gboolean make_from_mark(TmPickle *p, TmValueKind kind)
{
    guint height;
    gsize n;
    Node node = {0};

    if (!pop_mark(p, &height))
        return FALSE;
    n = p->stack->len - height;
    if (kind == TM_VALUE_DICT && n % 2)
        return complain(p, "the pickle has a key without a value");
    node_append(&node, above(p, height), n);
    g_array_set_size(p->stack, height);
    g_array_append_val(p->nodes, node);
    return push(p, VALUE(kind, p->nodes->len - 1));
}

/* --- memo --- */

static gboolean memo_put(TmPickle *p, guint64 index)
{
    TmValue value;

    /* A pickler numbers from 0 and needs two bytes for each at least. */
    if (index > p->at)
        return complain(p, "the pickle has an absurd memo index");
    if (!top(p, &value))
        return FALSE;
    if (index >= p->memo->len)
        g_array_set_size(p->memo, (guint)index + 1);
    /* 0 is "not there": None is never memoized, and its value is stored as 1 below. */
    g_array_index(p->memo, TmValue, index) = value + 1;
    return TRUE;
}

static gboolean memo_get(TmPickle *p, guint64 index)
{
    TmValue value;

    if (index >= p->memo->len || (value = g_array_index(p->memo, TmValue, index)) == 0)
        return complain(p, "the pickle takes a memo that is not there");
    return push(p, value - 1);
}

/* --- globals and objects --- */

static gboolean push_global(TmPickle *p, TmValue module, TmValue name)
{
    TmValue body[2] = {module, name};

    if (tm_value_kind(module) != TM_VALUE_STR || tm_value_kind(name) != TM_VALUE_STR)
        return complain(p, "the pickle names a class by what is no string");
    return push(p, VALUE(TM_VALUE_GLOBAL, add_words(p, body, 2)));
}

static gboolean global_line(TmPickle *p)
{
    const char *module, *name;
    gsize module_bytes, name_bytes;
    TmValue m, n;

    return take_line(p, &module, &module_bytes) && take_line(p, &name, &name_bytes) &&
           push_text(p, TM_VALUE_STR, module, module_bytes) &&
           push_text(p, TM_VALUE_STR, name, name_bytes) && pop(p, &n) && pop(p, &m) &&
           push_global(p, m, n);
}

static gboolean stack_global(TmPickle *p)
{
    TmValue module, name;

    return pop(p, &name) && pop(p, &module) && push_global(p, module, name);
}

static gboolean push_object(TmPickle *p, TmValue class, TmValue arguments)
{
    Node *node;

    push_node(p, TM_VALUE_OBJECT);
    node = &g_array_index(p->nodes, Node, p->nodes->len - 1);
    node->class = class;
    node->arguments = arguments;
    return TRUE;
}

static gboolean is_global(const TmPickle *p, TmValue value, const char *module, const char *name);

/* copyreg._reconstructor(class, base, state) is how protocols 0 and 1 make an object. */
static gboolean reduce(TmPickle *p)
{
    TmValue class, arguments;

    if (!pop(p, &arguments) || !pop(p, &class))
        return FALSE;
    if (tm_value_kind(arguments) == TM_VALUE_TUPLE && word(p, PAYLOAD(arguments)) > 0 &&
        (is_global(p, class, "copy_reg", "_reconstructor") ||
         is_global(p, class, "copyreg", "_reconstructor") ||
         is_global(p, class, "copyreg", "__newobj__")))
        class = word(p, PAYLOAD(arguments) + 1);
    return push_object(p, class, arguments);
}

static gboolean new_object(TmPickle *p, gboolean keywords)
{
    TmValue class, arguments, ignored;

    return (!keywords || pop(p, &ignored)) && pop(p, &arguments) && pop(p, &class) &&
           push_object(p, class, arguments);
}

/* OBJ: mark, class, arguments. */
static gboolean old_object(TmPickle *p)
{
    guint height;
    TmValue class, arguments;

    if (!pop_mark(p, &height))
        return FALSE;
    if (p->stack->len <= height)
        return complain(p, "the pickle takes a value that is not there");
    class = g_array_index(p->stack, TmValue, height);
    return make_tuple(p, height + 1) && pop(p, &arguments) && pop(p, &class) &&
           push_object(p, class, arguments);
}

static gboolean instance(TmPickle *p)
{
    guint height;
    TmValue class, arguments;

    return pop_mark(p, &height) && make_tuple(p, height) && pop(p, &arguments) && global_line(p) &&
           pop(p, &class) && push_object(p, class, arguments);
}

static gboolean build(TmPickle *p)
{
    TmValue state, object;

    if (!pop(p, &state) || !top(p, &object))
        return FALSE;
    if (tm_value_kind(object) != TM_VALUE_OBJECT)
        return complain(p, "the pickle gives a state to what is no object");
    node_of(p, object)->state = state;
    return TRUE;
}

/* --- literals --- */

static gboolean int_line(TmPickle *p)
{
    const char *text;
    gsize n_bytes;
    char copy[32], *end;
    gint64 value;

    if (!take_line(p, &text, &n_bytes))
        return FALSE;
    if (n_bytes && text[n_bytes - 1] == 'L')
        n_bytes--;
    if (n_bytes == 2 && text[0] == '0' && (text[1] == '0' || text[1] == '1'))
        return push(p, VALUE(TM_VALUE_BOOL, text[1] == '1'));
    if (n_bytes == 0)
        return complain(p, "the pickle has a number that is none");
    for (gsize i = 0; i < n_bytes; i++) {
        if (!g_ascii_isdigit(text[i]) && !(i == 0 && text[i] == '-'))
            return complain(p, "the pickle has a number that is none");
    }
    if (n_bytes >= sizeof copy)
        return push(p, VALUE(TM_VALUE_HUGE, 0));
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    errno = 0;
    value = g_ascii_strtoll(copy, &end, 10);
    return errno ? push(p, VALUE(TM_VALUE_HUGE, 0)) : push_int(p, value);
}

static gboolean float_line(TmPickle *p)
{
    const char *text;
    gsize n_bytes;
    char copy[64], *end;
    double value;

    if (!take_line(p, &text, &n_bytes))
        return FALSE;
    if (n_bytes == 0 || n_bytes >= sizeof copy)
        return complain(p, "the pickle has a number that is none");
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    value = g_ascii_strtod(copy, &end);
    return *end == '\0' ? push_float(p, value)
                        : complain(p, "the pickle has a number that is none");
}

static gboolean long_bytes(TmPickle *p, guint64 n_bytes)
{
    const guint8 *from = take(p, n_bytes);
    guint64 value;

    if (from == NULL)
        return FALSE;
    if (n_bytes == 0)
        return push_int(p, 0);
    /* Little-endian two's complement; bytes that only repeat the sign do not count. */
    while (n_bytes > 8 && from[n_bytes - 1] == (from[n_bytes - 2] & 0x80 ? 0xff : 0))
        n_bytes--;
    if (n_bytes > 8)
        return push(p, VALUE(TM_VALUE_HUGE, 0));
    value = from[n_bytes - 1] & 0x80 ? ~G_GUINT64_CONSTANT(0) : 0;
    for (gsize i = n_bytes; i-- > 0;)
        value = value << 8 | from[i];
    return push_int(p, (gint64)value);
}

static gboolean float_bytes(TmPickle *p)
{
    const guint8 *from = take(p, 8);
    guint64 bits = 0;
    double value;

    for (guint i = 0; from && i < 8; i++)
        bits = bits << 8 | from[i];
    memcpy(&value, &bits, sizeof value);
    return from && push_float(p, value);
}

static gboolean text_bytes(TmPickle *p, TmValueKind kind, guint length_bytes)
{
    guint64 n_bytes;
    const guint8 *from;

    if (!take_le(p, length_bytes, &n_bytes))
        return FALSE;
    from = take(p, n_bytes);
    return from && push_text(p, kind, from, n_bytes);
}

static void append_code_point(GString *out, guint32 c)
{
    /* Not g_string_append_unichar, which refuses surrogates. */
    if (c < 0x80) {
        g_string_append_c(out, (char)c);
    } else if (c < 0x800) {
        g_string_append_c(out, (char)(0xc0 | c >> 6));
        g_string_append_c(out, (char)(0x80 | (c & 0x3f)));
    } else if (c < 0x10000) {
        g_string_append_c(out, (char)(0xe0 | c >> 12));
        g_string_append_c(out, (char)(0x80 | (c >> 6 & 0x3f)));
        g_string_append_c(out, (char)(0x80 | (c & 0x3f)));
    } else {
        g_string_append_c(out, (char)(0xf0 | c >> 18));
        g_string_append_c(out, (char)(0x80 | (c >> 12 & 0x3f)));
        g_string_append_c(out, (char)(0x80 | (c >> 6 & 0x3f)));
        g_string_append_c(out, (char)(0x80 | (c & 0x3f)));
    }
}

/* Value of n hexadecimal digits, or -1. */
static gint64 hex_value(const char *text, gsize n)
{
    gint64 value = 0;

    for (gsize i = 0; i < n; i++) {
        int digit = g_ascii_xdigit_value(text[i]);
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* UNICODE's line is raw-unicode-escape: Latin-1 and \uXXXX, \UXXXXXXXX. */
static gboolean unicode_line(TmPickle *p)
{
    const char *text;
    gsize n_bytes;
    GString *decoded;

    if (!take_line(p, &text, &n_bytes))
        return FALSE;
    decoded = g_string_sized_new(n_bytes);
    for (gsize i = 0; i < n_bytes; i++) {
        gsize n = text[i] != '\\' || i + 1 >= n_bytes ? 0
                  : text[i + 1] == 'u'                ? 4
                  : text[i + 1] == 'U'                ? 8
                                                      : 0;
        gint64 c = n && i + 2 + n <= n_bytes ? hex_value(text + i + 2, n) : -1;
        if (c >= 0 && c <= 0x10ffff) {
            append_code_point(decoded, (guint32)c);
            i += n + 1;
        } else {
            append_code_point(decoded, (guchar)text[i]);
        }
    }
    n_bytes = decoded->len;
    g_ptr_array_add(p->decoded, g_string_free(decoded, FALSE));
    return push_text(p, TM_VALUE_STR, p->decoded->pdata[p->decoded->len - 1], n_bytes);
}

/* STRING's line is a repr() in quotes; escapes stay as they are, which no name that counts has. */
static gboolean string_line(TmPickle *p)
{
    const char *text;
    gsize n_bytes;

    if (!take_line(p, &text, &n_bytes))
        return FALSE;
    if (n_bytes < 2 || (text[0] != '\'' && text[0] != '"') || text[n_bytes - 1] != text[0])
        return complain(p, "the pickle has a string without quotes");
    return push_text(p, TM_VALUE_STR, text + 1, n_bytes - 2);
}

static gboolean index_line(TmPickle *p, guint64 *ret)
{
    const char *text;
    gsize n_bytes;

    *ret = 0;
    if (!take_line(p, &text, &n_bytes))
        return FALSE;
    for (gsize i = 0; i < n_bytes && i < 12; i++) {
        if (!g_ascii_isdigit(text[i]))
            return complain(p, "the pickle has a memo index that is none");
        *ret = *ret * 10 + (guint64)(text[i] - '0');
    }
    return (n_bytes > 0 && n_bytes < 12) || complain(p, "the pickle has an absurd memo index");
}

/* --- opcodes --- */

static gboolean do_literal(TmPickle *p, guint8 op, gboolean *ret_known)
{
    guint64 n;

    switch (op) {
    case 'N':
        return push(p, VALUE(TM_VALUE_NONE, 0));
    case 0x88:
    case 0x89:
        return push(p, VALUE(TM_VALUE_BOOL, op == 0x88));
    case 'I':
    case 'L':
        return int_line(p);
    case 'F':
        return float_line(p);
    case 'G':
        return float_bytes(p);
    case 'K':
        return take_le(p, 1, &n) && push_int(p, (gint64)n);
    case 'M':
        return take_le(p, 2, &n) && push_int(p, (gint64)n);
    case 'J':
        return take_le(p, 4, &n) && push_int(p, (gint32)(guint32)n);
    case 0x8a:
        return take_le(p, 1, &n) && long_bytes(p, n);
    case 0x8b:
        return take_le(p, 4, &n) && long_bytes(p, n);
    case 'V':
        return unicode_line(p);
    case 'X':
        return text_bytes(p, TM_VALUE_STR, 4);
    case 0x8c:
        return text_bytes(p, TM_VALUE_STR, 1);
    case 0x8d:
        return text_bytes(p, TM_VALUE_STR, 8);
    case 'S':
        return string_line(p);
    case 'T':
        return text_bytes(p, TM_VALUE_STR, 4);
    case 'U':
        return text_bytes(p, TM_VALUE_STR, 1);
    case 'B':
        return text_bytes(p, TM_VALUE_BYTES, 4);
    case 'C':
        return text_bytes(p, TM_VALUE_BYTES, 1);
    case 0x8e:
    case 0x96:
        return text_bytes(p, TM_VALUE_BYTES, 8);
    default:
        *ret_known = FALSE;
        return FALSE;
    }
}

static gboolean do_container(TmPickle *p, guint8 op, gboolean *ret_known)
{
    guint height;

    switch (op) {
    case '(':
        height = p->stack->len;
        g_array_append_val(p->marks, height);
        return TRUE;
    case ')':
        return make_small_tuple(p, 0);
    case 't':
        return pop_mark(p, &height) && make_tuple(p, height);
    case 0x85:
    case 0x86:
    case 0x87:
        return make_small_tuple(p, op - 0x84u);
    case ']':
    case 0x8f:
        return push_node(p, TM_VALUE_LIST);
    case '}':
        return push_node(p, TM_VALUE_DICT);
    case 'l':
    case 0x91:
        return make_from_mark(p, TM_VALUE_LIST);
    case 'd':
        return make_from_mark(p, TM_VALUE_DICT);
    case 'a':
        return p->stack->len >= 2 ? extend(p, p->stack->len - 1, TM_VALUE_LIST)
                                  : complain(p, "the pickle takes a value that is not there");
    case 's':
        return p->stack->len >= 3 ? extend(p, p->stack->len - 2, TM_VALUE_DICT)
                                  : complain(p, "the pickle takes a value that is not there");
    case 'e':
    case 0x90:
        return pop_mark(p, &height) && extend(p, height, TM_VALUE_LIST);
    case 'u':
        return pop_mark(p, &height) && extend(p, height, TM_VALUE_DICT);
    default:
        *ret_known = FALSE;
        return FALSE;
    }
}

static gboolean do_object(TmPickle *p, guint8 op, gboolean *ret_known)
{
    switch (op) {
    case 'c':
        return global_line(p);
    case 0x93:
        return stack_global(p);
    case 'R':
        return reduce(p);
    case 0x81:
        return new_object(p, FALSE);
    case 0x92:
        return new_object(p, TRUE);
    case 'o':
        return old_object(p);
    case 'i':
        return instance(p);
    case 'b':
        return build(p);
    default:
        *ret_known = FALSE;
        return FALSE;
    }
}

static gboolean do_other(TmPickle *p, guint8 op)
{
    guint64 n;
    TmValue value;
    guint height;

    switch (op) {
    case 'p':
        return index_line(p, &n) && memo_put(p, n);
    case 'q':
        return take_le(p, 1, &n) && memo_put(p, n);
    case 'r':
        return take_le(p, 4, &n) && memo_put(p, n);
    case 0x94:
        return memo_put(p, p->memo->len);
    case 'g':
        return index_line(p, &n) && memo_get(p, n);
    case 'h':
        return take_le(p, 1, &n) && memo_get(p, n);
    case 'j':
        return take_le(p, 4, &n) && memo_get(p, n);
    case '0':
        /* POP also takes a mark that has nothing above it. */
        if (p->marks->len && g_array_index(p->marks, guint, p->marks->len - 1) == p->stack->len)
            return pop_mark(p, &height);
        return pop(p, &value);
    case '1':
        if (!pop_mark(p, &height))
            return FALSE;
        g_array_set_size(p->stack, height);
        return TRUE;
    case '2':
        return top(p, &value) && push(p, value);
    case 0x80:
        if (take_le(p, 1, &n) && n > 5)
            return complain(p, "the pickle is of a protocol above 5");
        return p->complaint == NULL;
    case 0x95:
        return take_le(p, 8, &n);
    case '.':
        p->done = pop(p, &p->root);
        return p->done;
    default:
        return complain(p, "the pickle has an opcode that no snapshot needs");
    }
}

static gboolean step(TmPickle *p)
{
    const guint8 *op = take(p, 1);
    gboolean known = TRUE, ok;

    if (op == NULL)
        return FALSE;
    ok = do_literal(p, *op, &known);
    if (known)
        return ok;
    known = TRUE;
    ok = do_container(p, *op, &known);
    if (known)
        return ok;
    known = TRUE;
    ok = do_object(p, *op, &known);
    return known ? ok : do_other(p, *op);
}

TmPickle *tm_pickle_parse(const guint8 *data, gsize n_bytes, GError **error)
{
    g_autoptr(TmPickle) p = g_new0(TmPickle, 1);
    gsize op_at = 0;

    p->data = data;
    p->n_bytes = n_bytes;
    p->words = g_array_new(FALSE, FALSE, sizeof(guint64));
    p->nodes = g_array_new(FALSE, TRUE, sizeof(Node));
    p->stack = g_array_new(FALSE, FALSE, sizeof(TmValue));
    p->marks = g_array_new(FALSE, FALSE, sizeof(guint));
    p->memo = g_array_new(FALSE, TRUE, sizeof(TmValue));
    p->decoded = g_ptr_array_new_with_free_func(g_free);
    while (!p->done) {
        /* GArray counts in 32 bits and doubles what it has. */
        if (p->words->len > G_MAXUINT32 / 32) {
            tm_error_data(error, "the pickle is too large (at byte %" PRIu64 ")", (uint64_t)p->at);
            return NULL;
        }
        op_at = p->at;
        if (!step(p)) {
            tm_error_data(error, "%s (at byte %" PRIu64 ")",
                          p->complaint ? p->complaint : "the pickle is damaged", (uint64_t)op_at);
            return NULL;
        }
    }
    return g_steal_pointer(&p);
}

void tm_pickle_free(TmPickle *p)
{
    if (p == NULL)
        return;
    for (guint i = 0; i < p->nodes->len; i++)
        g_free(g_array_index(p->nodes, Node, i).items);
    g_array_unref(p->words);
    g_array_unref(p->nodes);
    g_array_unref(p->stack);
    g_array_unref(p->marks);
    g_array_unref(p->memo);
    g_ptr_array_unref(p->decoded);
    g_free(p);
}

TmValue tm_pickle_root(const TmPickle *p)
{
    return p->root;
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
        *ret = (gint64)word(p, payload >> 1);
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
    bits = word(p, PAYLOAD(value));
    memcpy(ret, &bits, sizeof *ret);
    return TRUE;
}

gboolean tm_value_text(const TmPickle *p, TmValue value, const char **ret, gsize *ret_bytes)
{
    if (tm_value_kind(value) != TM_VALUE_STR && tm_value_kind(value) != TM_VALUE_BYTES)
        return FALSE;
    *ret = (const char *)(guintptr)word(p, PAYLOAD(value));
    *ret_bytes = word(p, PAYLOAD(value) + 1);
    return TRUE;
}

gboolean tm_value_items(const TmPickle *p, TmValue value, const TmValue **ret, gsize *ret_n)
{
    TmValueKind kind = tm_value_kind(value);

    if (kind == TM_VALUE_TUPLE) {
        *ret_n = word(p, PAYLOAD(value));
        *ret = &g_array_index(p->words, TmValue, 0) + PAYLOAD(value) + 1;
        return TRUE;
    }
    if (kind != TM_VALUE_LIST && kind != TM_VALUE_DICT)
        return FALSE;
    *ret = node_of(p, value)->items;
    *ret_n = node_of(p, value)->n_items;
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

static gboolean is_global(const TmPickle *p, TmValue value, const char *module, const char *name)
{
    return tm_value_kind(value) == TM_VALUE_GLOBAL && text_is(p, word(p, PAYLOAD(value)), module) &&
           text_is(p, word(p, PAYLOAD(value) + 1), name);
}

gboolean tm_value_class_is(const TmPickle *p, TmValue object, const char *module, const char *name)
{
    return tm_value_kind(object) == TM_VALUE_OBJECT &&
           is_global(p, node_of(p, object)->class, module, name);
}

gboolean tm_value_attribute(const TmPickle *p, TmValue object, const char *name, TmValue *ret)
{
    TmValue state;
    const TmValue *items;
    gsize n;

    if (tm_value_kind(object) != TM_VALUE_OBJECT)
        return FALSE;
    state = node_of(p, object)->state;
    /* With slots the state is (dict, dict of slots). */
    if (tm_value_kind(state) == TM_VALUE_TUPLE && tm_value_items(p, state, &items, &n) && n == 2)
        return tm_value_get(p, items[1], name, ret) || tm_value_get(p, items[0], name, ret);
    return tm_value_get(p, state, name, ret);
}

TmValue tm_value_arguments(const TmPickle *p, TmValue object)
{
    return tm_value_kind(object) == TM_VALUE_OBJECT ? node_of(p, object)->arguments : 0;
}
