// SPDX-License-Identifier: MIT
/* Numbers and strings of a pickle, in all the forms that protocols 0 to 5 have for them. */
#include "analyzer/pickle_private.h"

#include <errno.h>
#include <string.h>

#include "format/utf8.h"

static gboolean int_line(TmPickle *p)
{
    const char *text;
    gsize n_bytes;
    char copy[32], *end;
    gint64 value;

    if (!tm_pickle_take_line(p, &text, &n_bytes))
        return FALSE;
    if (n_bytes && text[n_bytes - 1] == 'L')
        n_bytes--;
    if (n_bytes == 2 && text[0] == '0' && (text[1] == '0' || text[1] == '1'))
        return tm_pickle_push(p, VALUE(TM_VALUE_BOOL, text[1] == '1'));
    if (n_bytes == 0)
        return tm_pickle_complain(p, "the pickle has a number that is none");
    for (gsize i = 0; i < n_bytes; i++) {
        if (!g_ascii_isdigit(text[i]) && !(i == 0 && text[i] == '-'))
            return tm_pickle_complain(p, "the pickle has a number that is none");
    }
    if (n_bytes >= sizeof copy)
        return tm_pickle_push(p, VALUE(TM_VALUE_HUGE, 0));
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    errno = 0;
    value = g_ascii_strtoll(copy, &end, 10);
    return errno ? tm_pickle_push(p, VALUE(TM_VALUE_HUGE, 0)) : tm_pickle_push_int(p, value);
}

static gboolean float_line(TmPickle *p)
{
    const char *text;
    gsize n_bytes;
    char copy[64], *end;
    double value;

    if (!tm_pickle_take_line(p, &text, &n_bytes))
        return FALSE;
    if (n_bytes == 0 || n_bytes >= sizeof copy)
        return tm_pickle_complain(p, "the pickle has a number that is none");
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    value = g_ascii_strtod(copy, &end);
    return *end == '\0' ? tm_pickle_push_float(p, value)
                        : tm_pickle_complain(p, "the pickle has a number that is none");
}

static gboolean long_bytes(TmPickle *p, guint64 n_bytes)
{
    const guint8 *from = tm_pickle_take(p, n_bytes);
    guint64 value;

    if (from == NULL)
        return FALSE;
    if (n_bytes == 0)
        return tm_pickle_push_int(p, 0);
    /* Little-endian two's complement; bytes that only repeat the sign do not count. */
    while (n_bytes > 8 && from[n_bytes - 1] == (from[n_bytes - 2] & 0x80 ? 0xff : 0))
        n_bytes--;
    if (n_bytes > 8)
        return tm_pickle_push(p, VALUE(TM_VALUE_HUGE, 0));
    value = from[n_bytes - 1] & 0x80 ? ~G_GUINT64_CONSTANT(0) : 0;
    for (gsize i = n_bytes; i-- > 0;)
        value = value << 8 | from[i];
    return tm_pickle_push_int(p, (gint64)value);
}

static gboolean float_bytes(TmPickle *p)
{
    const guint8 *from = tm_pickle_take(p, 8);
    guint64 bits = 0;
    double value;

    for (guint i = 0; from && i < 8; i++)
        bits = bits << 8 | from[i];
    memcpy(&value, &bits, sizeof value);
    return from && tm_pickle_push_float(p, value);
}

static gboolean text_bytes(TmPickle *p, TmValueKind kind, guint length_bytes)
{
    guint64 n_bytes;
    const guint8 *from;

    if (!tm_pickle_take_le(p, length_bytes, &n_bytes))
        return FALSE;
    from = tm_pickle_take(p, n_bytes);
    return from && tm_pickle_push_text(p, kind, from, n_bytes);
}

static void append_code_point(GString *out, guint32 c)
{
    /* Not g_string_append_unichar, which refuses surrogates. */
    char bytes[TM_UTF8_MAX];

    g_string_append_len(out, bytes, (gssize)tm_utf8_encode(c, bytes));
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

    if (!tm_pickle_take_line(p, &text, &n_bytes))
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
    return tm_pickle_push_text(p, TM_VALUE_STR, p->decoded->pdata[p->decoded->len - 1], n_bytes);
}

/* STRING's line is a repr() in quotes; escapes stay as they are, which no name that counts has. */
static gboolean string_line(TmPickle *p)
{
    const char *text;
    gsize n_bytes;

    if (!tm_pickle_take_line(p, &text, &n_bytes))
        return FALSE;
    if (n_bytes < 2 || (text[0] != '\'' && text[0] != '"') || text[n_bytes - 1] != text[0])
        return tm_pickle_complain(p, "the pickle has a string without quotes");
    return tm_pickle_push_text(p, TM_VALUE_STR, text + 1, n_bytes - 2);
}

gboolean tm_pickle_literal(TmPickle *p, guint8 op, gboolean *ret_known)
{
    guint64 n;

    switch (op) {
    case 'N':
        return tm_pickle_push(p, VALUE(TM_VALUE_NONE, 0));
    case 0x88:
    case 0x89:
        return tm_pickle_push(p, VALUE(TM_VALUE_BOOL, op == 0x88));
    case 'I':
    case 'L':
        return int_line(p);
    case 'F':
        return float_line(p);
    case 'G':
        return float_bytes(p);
    case 'K':
        return tm_pickle_take_le(p, 1, &n) && tm_pickle_push_int(p, (gint64)n);
    case 'M':
        return tm_pickle_take_le(p, 2, &n) && tm_pickle_push_int(p, (gint64)n);
    case 'J':
        return tm_pickle_take_le(p, 4, &n) && tm_pickle_push_int(p, (gint32)(guint32)n);
    case 0x8a:
        return tm_pickle_take_le(p, 1, &n) && long_bytes(p, n);
    case 0x8b:
        return tm_pickle_take_le(p, 4, &n) && long_bytes(p, n);
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
