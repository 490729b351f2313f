// SPDX-License-Identifier: MIT
/* Text for terminals. */
#include "analyzer/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

void tm_text_append_styled(GString *out, gboolean color, TmStyle style, const char *text)
{
    static const char *const codes[] = {"", "1", "36", "33", "1;33"};

    if (color && style != TM_STYLE_NONE)
        g_string_append_printf(out, "\033[%sm%s\033[0m", codes[style], text);
    else
        g_string_append(out, text);
}

void tm_text_append_safe(GString *out, struct tms_str text)
{
    for (gsize i = 0; i < text.n_bytes; i++) {
        guchar c = (guchar)text.bytes[i];
        /* C1 control characters are U+0080 to U+009F: 0xc2 and a byte below 0xa0. */
        gboolean c1 = c == 0xc2 && i + 1 < text.n_bytes && (guchar)text.bytes[i + 1] < 0xa0;
        if (c < 0x20 || c == 0x7f)
            g_string_append_printf(out, "\\x%02x", c);
        else if (c1)
            g_string_append_printf(out, "\\x%02x", (guchar)text.bytes[++i]);
        else
            g_string_append_c(out, (char)c);
    }
}

/* Where the last `parts` parts begin; 0: there are no more than that. */
static gsize skip_parts(struct tms_str name, int parts)
{
    gsize at = name.n_bytes;

    while (at > 0) {
        if (name.bytes[at - 1] == '/' && --parts <= 0)
            return at;
        at--;
    }
    return 0;
}

static gsize last_slash(struct tms_str name)
{
    gsize at = name.n_bytes;

    while (at > 0 && name.bytes[at - 1] != '/')
        at--;
    return at;
}

void tm_text_append_filename(GString *out, gboolean color, struct tms_str name, int parts)
{
    g_autoptr(GString) directory = g_string_new(NULL);
    gsize begin, base;

    if (name.n_bytes == 0) {
        g_string_append(out, "???");
        return;
    }
    begin = skip_parts(name, parts < 1 ? 1 : parts);
    base = last_slash(name);
    if (begin)
        g_string_append(directory, ".../");
    tm_text_append_safe(directory, (struct tms_str){name.bytes + begin, base - begin});
    if (directory->len)
        tm_text_append_styled(out, color, TM_STYLE_CYAN, directory->str);
    tm_text_append_safe(out, (struct tms_str){name.bytes + base, name.n_bytes - base});
}

char *tm_text_timestamp(guint64 timestamp_ns)
{
    time_t seconds = (time_t)(timestamp_ns / 1000000000u);
    struct tm parts;
    char text[64];

    if (localtime_r(&seconds, &parts) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts) == 0)
        return g_strdup("(no date)");
    return g_strdup(text);
}

gboolean tm_text_wants_color(void)
{
    const char *no_color = getenv("NO_COLOR");

    return (no_color == NULL || no_color[0] == '\0') && isatty(STDOUT_FILENO);
}

guint tm_text_width(void)
{
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40 ? size.ws_col : 80;
}

/* Where the last column begins: behind two spaces or more, or behind those at the begin. */
static guint last_column(const char *line)
{
    guint column = (guint)strspn(line, " ");

    for (guint at = column; line[at]; at++) {
        if (line[at] == ' ' && line[at + 1] == ' ')
            column = at + (guint)strspn(line + at, " ");
    }
    return column;
}

static void append_wrapped(GString *out, const char *line, guint width)
{
    guint indent = last_column(line), first = indent;

    while (strlen(line) > width) {
        guint end = width;
        while (end > first && line[end] != ' ')
            end--;
        if (end == first)
            break; /* One word that is too long stays whole. */
        g_string_append_len(out, line, end);
        g_string_append_printf(out, "\n%*s", (int)indent, "");
        line += end + 1;
        if (first) { /* The lines that follow have no more than that column. */
            width = width > first + 20 ? width - first : 20;
            first = 0;
        }
    }
    g_string_append(out, line);
}

char *tm_text_wrap(const char *text, guint width)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    GString *out = g_string_new(NULL);

    for (guint i = 0; lines[i]; i++) {
        g_string_append(out, i ? "\n" : "");
        append_wrapped(out, lines[i], width);
    }
    return g_string_free(out, FALSE);
}
