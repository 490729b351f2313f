// SPDX-License-Identifier: MIT
/* Output files. */
#include "analyzer/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "analyzer/error.h"

gboolean tm_outfile_open(TmOutfile *file, const char *path, GError **error)
{
    mode_t mask;
    int fd;

    memset(file, 0, sizeof *file);
    if (path == NULL || strcmp(path, "-") == 0) {
        file->stream = stdout;
        return TRUE;
    }
    file->path = g_strdup(path);
    file->temporary = g_strdup_printf("%s.XXXXXX", path);
    fd = g_mkstemp_full(file->temporary, O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        tm_error_data(error, "Failed to write %s: %s", path, g_strerror(errno));
        g_clear_pointer(&file->temporary, g_free);
        return FALSE;
    }
    /* mkstemp's mode is for secrets; this is a file like any other. */
    mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
    file->stream = fdopen(fd, "w+");
    return TRUE;
}

gboolean tm_outfile_commit(TmOutfile *file, GError **error)
{
    gboolean bad = fflush(file->stream) != 0 || ferror(file->stream);

    if (file->path == NULL)
        return !bad || tm_error_data(error, "Failed to write the output: %s", g_strerror(errno));
    bad = bad || fsync(fileno(file->stream)) != 0;
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
