// SPDX-License-Identifier: MIT
/* Output files. */
#include "analyzer/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "analyzer/error.h"

/* A file without a name: nothing is left of it where the process is killed. -1: not on this file
 * system. */
static int open_nameless(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);

    return open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
}

/* Gives it one beside its own, which is free. */
static gboolean name_it(TmOutfile *file)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", fileno(file->stream));

    for (guint i = 0; i < 100; i++) {
        file->temporary = g_strdup_printf("%s.%08x", file->path, g_random_int());
        if (linkat(AT_FDCWD, self, AT_FDCWD, file->temporary, AT_SYMLINK_FOLLOW) == 0)
            return TRUE;
        g_clear_pointer(&file->temporary, g_free);
        if (errno != EEXIST)
            break;
    }
    return FALSE;
}

static int open_named(TmOutfile *file)
{
    mode_t mask;
    int fd;

    file->temporary = g_strdup_printf("%s.XXXXXX", file->path);
    fd = g_mkstemp_full(file->temporary, O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        g_clear_pointer(&file->temporary, g_free);
        return -1;
    }
    /* mkstemp's mode is for secrets; this is a file like any other. */
    mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
    return fd;
}

/* What is there and is no file, a device or a pipe, is written to as it is. -1 with errno. */
static int open_special(TmOutfile *file)
{
    file->is_special = TRUE;
    return open(file->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
}

/* The file that symbolic links lead to, also where there is none yet: it is written, not they. */
static char *follow_links(const char *path)
{
    char *real = g_strdup(path);
    char *target;

    for (guint i = 0; i < 40 && (target = g_file_read_link(real, NULL)) != NULL; i++) {
        g_autofree char *folder = g_path_get_dirname(real);

        g_free(real);
        real =
            g_path_is_absolute(target) ? g_strdup(target) : g_build_filename(folder, target, NULL);
        g_free(target);
    }
    return real;
}

gboolean tm_outfile_open(TmOutfile *file, const char *path, GError **error)
{
    struct stat st;
    int fd;

    memset(file, 0, sizeof *file);
    if (path == NULL || strcmp(path, "-") == 0) {
        file->stream = stdout;
        return TRUE;
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        file->path = g_strdup(path);
        fd = open_special(file);
    } else {
        file->path = follow_links(path);
        fd = open_nameless(file->path);
        if (fd < 0)
            fd = open_named(file);
    }
    if (fd < 0)
        return tm_error_data(error, "Failed to write %s: %s", path, g_strerror(errno));
    file->stream = fdopen(fd, file->is_special ? "w" : "w+");
    return TRUE;
}

gboolean tm_outfile_commit(TmOutfile *file, GError **error)
{
    gboolean bad = fflush(file->stream) != 0 || ferror(file->stream);

    if (file->path == NULL)
        return !bad || tm_error_data(error, "Failed to write the output: %s", g_strerror(errno));
    if (file->is_special)
        return !bad ||
               tm_error_data(error, "Failed to write %s: %s", file->path, g_strerror(errno));
    bad = bad || fsync(fileno(file->stream)) != 0 || (file->temporary == NULL && !name_it(file));
    if (bad || rename(file->temporary, file->path) != 0)
        return tm_error_data(error, "Failed to write %s: %s", file->path, g_strerror(errno));
    g_clear_pointer(&file->temporary, g_free);
    return TRUE;
}

void tm_outfile_done(TmOutfile *file)
{
    if (file->stream && file->path)
        fclose(file->stream);
    if (file->temporary)
        unlink(file->temporary);
    g_free(file->temporary);
    g_free(file->path);
    memset(file, 0, sizeof *file);
}
