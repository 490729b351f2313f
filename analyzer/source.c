// SPDX-License-Identifier: MIT
/* Source lines. Files are read once and only if they are regular and of a sane size: names come
 * from the snapshot and may point anywhere. */
#include "analyzer/source.h"

#include <string.h>
#include <sys/stat.h>

#define SOURCE_BYTES_MAX (16 * 1024 * 1024)

struct TmSource {
    char *root;
    GHashTable *files; /* name -> char **lines, NULL where there is no file */
};

static void free_lines(void *lines)
{
    g_strfreev(lines);
}

TmSource *tm_source_new(const char *root)
{
    TmSource *source = g_new0(TmSource, 1);

    source->root = g_strdup(root);
    source->files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_lines);
    return source;
}

void tm_source_free(TmSource *source)
{
    if (source == NULL)
        return;
    g_free(source->root);
    g_hash_table_unref(source->files);
    g_free(source);
}

static char **read_lines(const char *path)
{
    g_autofree char *text = NULL;
    struct stat st;
    char **lines;

    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > SOURCE_BYTES_MAX ||
        !g_file_get_contents(path, &text, NULL, NULL))
        return NULL;
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        g_strstrip(*line);
        for (char *p = *line; *p; p++) {
            if (g_ascii_iscntrl(*p))
                *p = ' ';
        }
    }
    return lines;
}

/* Below the root the path is tried whole, then with ever fewer leading parts: a snapshot comes
 * from another machine, where the tree hung elsewhere. */
static char **find_lines(const TmSource *source, const char *name)
{
    char **lines = NULL;

    for (const char *rest = name; source->root && rest && lines == NULL;) {
        g_autofree char *path = NULL;
        while (*rest == '/')
            rest++;
        path = g_build_filename(source->root, rest, NULL);
        lines = read_lines(path);
        rest = strchr(rest, '/');
    }
    return lines ? lines : read_lines(name);
}

const char *tm_source_line(TmSource *source, struct tms_str file, gint32 line)
{
    g_autofree char *name = g_strndup(file.bytes, file.n_bytes);
    void *found = NULL;
    char **lines;

    if (line < 1 || file.n_bytes == 0 || name[0] == '<')
        return NULL;
    if (!g_hash_table_lookup_extended(source->files, name, NULL, &found)) {
        found = find_lines(source, name);
        g_hash_table_insert(source->files, g_strdup(name), found);
    }
    lines = found;
    for (gint32 i = 1; lines && *lines; i++, lines++) {
        if (i == line)
            return **lines ? *lines : NULL;
    }
    return NULL;
}
