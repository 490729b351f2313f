// SPDX-License-Identifier: MIT
/* /proc/PID/maps as a table. Pure parsing: touches nothing but the text. */
#include "inspect/maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inspect/error.h"

#define DELETED_SUFFIX " (deleted)"

/* The kernel writes a newline in a name as \012 and nothing else that way. */
static void unescape_newlines(char *path)
{
    char *to = path;
    for (const char *from = path; *from != '\0';) {
        if (strncmp(from, "\\012", 4) == 0) {
            *to++ = '\n';
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

static bool parse_line(char *line, struct tm_map *ret, GStringChunk *paths)
{
    int path_at = 0;
    unsigned long start, end, offset, inode;
    if (sscanf(line, "%lx-%lx %4[rwxps-] %lx %x:%x %lu %n", &start, &end, ret->perms, &offset,
               &ret->dev_major, &ret->dev_minor, &inode, &path_at) != 7 ||
        path_at == 0 || end <= start || strlen(ret->perms) != 4)
        return false;
    ret->start_addr = start;
    ret->end_addr = end;
    ret->offset_bytes = offset;
    ret->inode = inode;
    char *path = line + path_at;
    unescape_newlines(path);
    ret->deleted = g_str_has_suffix(path, DELETED_SUFFIX);
    if (ret->deleted)
        path[strlen(path) - strlen(DELETED_SUFFIX)] = '\0';
    ret->path = g_string_chunk_insert_const(paths, path);
    return true;
}

tm_maps *tm_maps_parse(const char *text, GError **error)
{
    g_autoptr(GArray) items = g_array_new(FALSE, TRUE, sizeof(struct tm_map));
    GStringChunk *paths = g_string_chunk_new(4096);
    unsigned line_number = 0;
    for (const char *at = text; *at != '\0';) {
        const char *end = strchrnul(at, '\n');
        g_autofree char *line = g_strndup(at, (gsize)(end - at));
        struct tm_map map = {0};
        line_number++;
        if (!parse_line(line, &map, paths)) {
            g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT,
                        "line %u of the memory map is not understood", line_number);
            g_string_chunk_free(paths);
            return NULL;
        }
        g_array_append_val(items, map);
        at = *end == '\n' ? end + 1 : end;
    }
    tm_maps *maps = g_new0(tm_maps, 1);
    maps->count = items->len;
    maps->items = (struct tm_map *)(void *)g_array_free(g_steal_pointer(&items), FALSE);
    maps->paths = paths;
    return maps;
}

/* g_file_get_contents does not say ESRCH from ENOENT and reads with stdio; a plain loop is
 * shorter than undoing that. */
static char *read_proc_file(const char *path, int *ret_errno)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        *ret_errno = errno;
        return NULL;
    }
    g_autoptr(GString) text = g_string_sized_new(16384);
    char buffer[16384];
    ssize_t n;
    while ((n = read(fd, buffer, sizeof(buffer))) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0)
            g_string_append_len(text, buffer, n);
    }
    *ret_errno = n < 0 ? errno : 0;
    close(fd);
    return n < 0 ? NULL : g_string_free(g_steal_pointer(&text), FALSE);
}

tm_maps *tm_maps_read(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)pid);
    int number = 0;
    g_autofree char *text = read_proc_file(path, &number);
    if (text == NULL) {
        tm_inspect_set_errno(error, number, "cannot read %s", path);
        return NULL;
    }
    return tm_maps_parse(text, error);
}

void tm_maps_free(tm_maps *maps)
{
    if (maps == NULL)
        return;
    g_free(maps->items);
    g_string_chunk_free(maps->paths);
    g_free(maps);
}

const struct tm_map *tm_maps_find(const tm_maps *maps, uint64_t addr)
{
    size_t low = 0, high = maps->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (maps->items[middle].end_addr <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == maps->count || maps->items[low].start_addr > addr)
        return NULL;
    return &maps->items[low];
}
