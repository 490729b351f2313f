// SPDX-License-Identifier: MIT
/*
 * The pickle machine. Opcodes and their arguments are those that CPython's
 * Lib/pickletools.py documents.
 */
#include "analyzer/pickle_private.h"

#include <inttypes.h>
#include <string.h>

#include "analyzer/error.h"

static gboolean push_node(TmPickle *p, TmValueKind kind)
{
    Node node = {0};

    g_array_append_val(p->nodes, node);
    return tm_pickle_push(p, VALUE(kind, p->nodes->len - 1));
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

/* The topmost mark protects what is below it: the stack is never lower than this, so that the
 * height of a mark that is popped is never above the stack's. */
static guint floor_of(const TmPickle *p)
{
    return p->marks->len ? g_array_index(p->marks, guint, p->marks->len - 1) : 0;
}

static gboolean pop(TmPickle *p, TmValue *ret)
{
    if (p->stack->len <= floor_of(p))
        return tm_pickle_complain(p, "the pickle takes a value that is not there");
    *ret = g_array_index(p->stack, TmValue, p->stack->len - 1);
    g_array_set_size(p->stack, p->stack->len - 1);
    return TRUE;
}

static gboolean top(TmPickle *p, TmValue *ret)
{
    if (!pop(p, ret))
        return FALSE;
    return tm_pickle_push(p, *ret);
}

/* Height of the topmost mark, which goes. */
static gboolean pop_mark(TmPickle *p, guint *ret)
{
    if (p->marks->len == 0) {
        /* FALSE in so many words: a compiler does not know what tm_pickle_complain returns. */
        tm_pickle_complain(p, "the pickle takes a mark that is not there");
        return FALSE;
    }
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
        return tm_pickle_complain(p, "the pickle takes a value that is not there");
    n = p->stack->len - height;
    at = tm_pickle_add_words(p, &n, 1);
    tm_pickle_add_words(p, above(p, height), n);
    g_array_set_size(p->stack, height);
    return tm_pickle_push(p, VALUE(TM_VALUE_TUPLE, at));
}

static gboolean make_small_tuple(TmPickle *p, guint n)
{
    if (p->stack->len < floor_of(p) + n)
        return tm_pickle_complain(p, "the pickle takes a value that is not there");
    return make_tuple(p, p->stack->len - n);
}

/* Appends what is above `height` to the list or dict just below it. */
static gboolean extend(TmPickle *p, guint height, TmValueKind kind)
{
    gsize n;
    TmValue target;

    if (height <= floor_of(p) || p->stack->len < height)
        return tm_pickle_complain(p, "the pickle takes a value that is not there");
    n = p->stack->len - height;
    target = g_array_index(p->stack, TmValue, height - 1);
    if (kind == TM_VALUE_DICT && n % 2)
        return tm_pickle_complain(p, "the pickle has a key without a value");
    if (tm_value_kind(target) == kind)
        node_append(tm_pickle_node(p, target), above(p, height), n);
    else if (tm_value_kind(target) != TM_VALUE_OBJECT) /* Of subclasses the items are dropped. */
        return tm_pickle_complain(p, "the pickle adds items to what is no container");
    g_array_set_size(p->stack, height);
    return TRUE;
}

static gboolean make_from_mark(TmPickle *p, TmValueKind kind)
{
    guint height;
    gsize n;
    Node node = {0};

    if (!pop_mark(p, &height) || p->stack->len < height)
        return FALSE;
    n = p->stack->len - height;
    if (kind == TM_VALUE_DICT && n % 2)
        return tm_pickle_complain(p, "the pickle has a key without a value");
    node_append(&node, above(p, height), n);
    g_array_set_size(p->stack, height);
    g_array_append_val(p->nodes, node);
    return tm_pickle_push(p, VALUE(kind, p->nodes->len - 1));
}

/* --- memo --- */

static gboolean index_line(TmPickle *p, guint64 *ret)
{
    const char *text;
    gsize n_bytes;

    *ret = 0;
    if (!tm_pickle_take_line(p, &text, &n_bytes))
        return FALSE;
    for (gsize i = 0; i < n_bytes && i < 12; i++) {
        if (!g_ascii_isdigit(text[i]))
            return tm_pickle_complain(p, "the pickle has a memo index that is none");
        *ret = *ret * 10 + (guint64)(text[i] - '0');
    }
    return (n_bytes > 0 && n_bytes < 12) ||
           tm_pickle_complain(p, "the pickle has an absurd memo index");
}

static gboolean memo_put(TmPickle *p, guint64 index)
{
    TmValue value;

    /* A pickler numbers from 0 and needs two bytes for each at least. */
    if (index > p->at)
        return tm_pickle_complain(p, "the pickle has an absurd memo index");
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
        return tm_pickle_complain(p, "the pickle takes a memo that is not there");
    return tm_pickle_push(p, value - 1);
}

/* --- globals and objects --- */

static gboolean push_global(TmPickle *p, TmValue module, TmValue name)
{
    TmValue body[2] = {module, name};

    if (tm_value_kind(module) != TM_VALUE_STR || tm_value_kind(name) != TM_VALUE_STR)
        return tm_pickle_complain(p, "the pickle names a class by what is no string");
    return tm_pickle_push(p, VALUE(TM_VALUE_GLOBAL, tm_pickle_add_words(p, body, 2)));
}

static gboolean global_line(TmPickle *p)
{
    const char *module, *name;
    gsize module_bytes, name_bytes;
    TmValue m, n;

    return tm_pickle_take_line(p, &module, &module_bytes) &&
           tm_pickle_take_line(p, &name, &name_bytes) &&
           tm_pickle_push_text(p, TM_VALUE_STR, module, module_bytes) &&
           tm_pickle_push_text(p, TM_VALUE_STR, name, name_bytes) && pop(p, &n) && pop(p, &m) &&
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

/* copyreg._reconstructor(class, base, state) is how protocols 0 and 1 make an object. */
static gboolean reduce(TmPickle *p)
{
    TmValue class, arguments;

    if (!pop(p, &arguments) || !pop(p, &class))
        return FALSE;
    if (tm_value_kind(arguments) == TM_VALUE_TUPLE && tm_pickle_word(p, PAYLOAD(arguments)) > 0 &&
        (tm_value_is_global(p, class, "copy_reg", "_reconstructor") ||
         tm_value_is_global(p, class, "copyreg", "_reconstructor") ||
         tm_value_is_global(p, class, "copyreg", "__newobj__")))
        class = tm_pickle_word(p, PAYLOAD(arguments) + 1);
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
        return tm_pickle_complain(p, "the pickle takes a value that is not there");
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
        return tm_pickle_complain(p, "the pickle gives a state to what is no object");
    tm_pickle_node(p, object)->state = state;
    return TRUE;
}

/* --- opcodes --- */

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
        return p->stack->len >= 2
                   ? extend(p, p->stack->len - 1, TM_VALUE_LIST)
                   : tm_pickle_complain(p, "the pickle takes a value that is not there");
    case 's':
        return p->stack->len >= 3
                   ? extend(p, p->stack->len - 2, TM_VALUE_DICT)
                   : tm_pickle_complain(p, "the pickle takes a value that is not there");
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
        return tm_pickle_take_le(p, 1, &n) && memo_put(p, n);
    case 'r':
        return tm_pickle_take_le(p, 4, &n) && memo_put(p, n);
    case 0x94:
        return memo_put(p, p->memo->len);
    case 'g':
        return index_line(p, &n) && memo_get(p, n);
    case 'h':
        return tm_pickle_take_le(p, 1, &n) && memo_get(p, n);
    case 'j':
        return tm_pickle_take_le(p, 4, &n) && memo_get(p, n);
    case '0':
        /* POP also takes a mark that has nothing above it. */
        if (p->marks->len && floor_of(p) == p->stack->len)
            return pop_mark(p, &height);
        return pop(p, &value);
    case '1':
        if (!pop_mark(p, &height))
            return FALSE;
        g_array_set_size(p->stack, height);
        return TRUE;
    case '2':
        return top(p, &value) && tm_pickle_push(p, value);
    case 0x80:
        if (tm_pickle_take_le(p, 1, &n) && n > 5)
            return tm_pickle_complain(p, "the pickle is of a protocol above 5");
        return p->complaint == NULL;
    case 0x95:
        return tm_pickle_take_le(p, 8, &n);
    case '.':
        p->done = pop(p, &p->root);
        return p->done;
    default:
        return tm_pickle_complain(p, "the pickle has an opcode that no snapshot needs");
    }
}

static gboolean step(TmPickle *p)
{
    const guint8 *op = tm_pickle_take(p, 1);
    gboolean known = TRUE, ok;

    if (op == NULL)
        return FALSE;
    ok = tm_pickle_literal(p, *op, &known);
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
    /* Sized, so that its data is never NULL. */
    p->stack = g_array_sized_new(FALSE, FALSE, sizeof(TmValue), 64);
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
