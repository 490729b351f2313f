// SPDX-License-Identifier: MIT
/*
 * Reads a pickle into plain values. Nothing is imported, called or executed:
 * classes stay names, calls and objects stay records of what was asked for.
 * Protocols 0 to 5. Memory is bounded by a small multiple of the input.
 */
#pragma once

#include <glib.h>

typedef struct TmPickle TmPickle;

/* A value: its kind in the low 4 bits. Equal values of compound kinds are the same object. */
typedef guint64 TmValue;

typedef enum {
    TM_VALUE_NONE = 0,
    TM_VALUE_BOOL,
    TM_VALUE_INT,  /* fits gint64 */
    TM_VALUE_HUGE, /* an int that does not; its value is not kept */
    TM_VALUE_FLOAT,
    TM_VALUE_STR, /* UTF-8, surrogates let through */
    TM_VALUE_BYTES,
    TM_VALUE_TUPLE,
    TM_VALUE_LIST, /* sets are lists too */
    TM_VALUE_DICT,
    TM_VALUE_GLOBAL, /* a name: (module, name) */
    TM_VALUE_OBJECT, /* what calling or instantiating something would have given */
} TmValueKind;

static inline TmValueKind tm_value_kind(TmValue value)
{
    return (TmValueKind)(value & 15);
}

/* `data` must outlive the result. NULL: error filled, with the offset. */
TmPickle *tm_pickle_parse(const guint8 *data, gsize n_bytes, GError **error);
void tm_pickle_free(TmPickle *pickle);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TmPickle, tm_pickle_free)

TmValue tm_pickle_root(const TmPickle *pickle);

/* Each answers FALSE (or 0) where the value is of another kind. */
gboolean tm_value_int(const TmPickle *pickle, TmValue value, gint64 *ret); /* bools too */
gboolean tm_value_number(const TmPickle *pickle, TmValue value, double *ret);
gboolean tm_value_text(const TmPickle *pickle, TmValue value, const char **ret, gsize *ret_bytes);
/* Elements of a tuple or list; a dict's keys and values in turn. Borrowed. */
gboolean tm_value_items(const TmPickle *pickle, TmValue value, const TmValue **ret, gsize *ret_n);
/* Value of a string key of a dict; the last one wins, as in Python. */
gboolean tm_value_get(const TmPickle *pickle, TmValue dict, const char *key, TmValue *ret);
/* Class of an object, "module.name"; the callable where it came from a call. */
gboolean tm_value_class_is(const TmPickle *pickle, TmValue object, const char *module,
                           const char *name);
/* Attribute of an object by its state, that is, its __dict__. */
gboolean tm_value_attribute(const TmPickle *pickle, TmValue object, const char *name, TmValue *ret);
/* Arguments with which an object was made, a tuple; NONE where there are none. */
TmValue tm_value_arguments(const TmPickle *pickle, TmValue object);
