// SPDX-License-Identifier: MIT
#include "injector/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "injector/client.h"
#include "inspect/process.h"

static bool fail(GError **error, const char *path, int number)
{
    g_set_error(error, TM_CONTROL_ERROR, TM_CONTROL_ERROR_OUTPUT, "%s: %s", path,
                g_strerror(number));
    return false;
}

/* A directory that may be entered and written but not listed can be opened by O_PATH only. */
static int open_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 && errno == EACCES ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : fd;
}

/* The supplementary groups of pid; false where they cannot be read. */
static GArray *read_groups(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid);
    g_autofree char *text = NULL;
    GArray *groups = g_array_new(FALSE, FALSE, sizeof(gid_t));

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return groups;
    const char *line = strstr(text, "\nGroups:");
    for (line = line ? line + strlen("\nGroups:") : "\n"; *line && *line != '\n';) {
        char *end;
        gid_t group = (gid_t)g_ascii_strtoull(line, &end, 10);
        if (end == line)
            break;
        g_array_append_val(groups, group);
        line = end;
        while (*line == ' ' || *line == '\t')
            line++;
    }
    return groups;
}

/* Whether the target's user could make files there, asked of the kernel by a child that has its
 * credentials: modes alone do not tell, with ACLs, groups and network file systems. */
static bool may_write(int fd, pid_t pid, const struct tm_process *process)
{
    g_autoptr(GArray) groups = read_groups(pid);
    pid_t child = fork();

    if (child < 0)
        return true; /* the agent will say */
    if (child == 0) {
        gid_t gid = process->gids[3];
        uid_t uid = process->uids[3];
        if (setgroups(groups->len, (const gid_t *)(const void *)groups->data) ||
            setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
            _exit(0);
        _exit(faccessat(fd, ".", W_OK | X_OK, 0) ? 1 : 0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

/* Makes dir/name for a user, or takes it from an earlier attach. Whoever may write in dir could
 * have put something else there first: only what root or that user owns is taken. */
static int make_for_user(int dir, const char *name, const struct tm_process *process)
{
    struct stat st;

    if (mkdirat(dir, name, 0700) && errno != EEXIST)
        return -errno;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int status = fstat(fd, &st) ? -errno : 0;
    if (status == 0 && st.st_uid == geteuid()) {
        if (fchown(fd, process->uids[3], process->gids[3]) || fchmod(fd, 0755))
            status = -errno;
    } else if (status == 0 && st.st_uid != process->uids[3]) {
        status = -EEXIST;
    }
    if (status == 0)
        return fd;
    close(fd);
    return status;
}

static bool adapt_to_user(struct tm_directory *directory, pid_t pid, GError **error)
{
    struct tm_process process;

    if (geteuid() != 0 || !tm_process_read(pid, &process, NULL) || process.uids[3] == 0 ||
        may_write(directory->fd, pid, &process))
        return true;
    g_autofree char *name = g_strdup_printf("tracemalloc-%d", (int)pid);
    g_autofree char *path = g_build_filename(directory->path, name, NULL);
    int fd = make_for_user(directory->fd, name, &process);
    if (fd < 0)
        return fail(error, path, -fd);
    close(directory->fd);
    g_free(directory->path);
    directory->fd = fd;
    directory->path = g_steal_pointer(&path);
    directory->made = true;
    return true;
}

bool tm_directory_open(struct tm_directory *ret, const char *template, pid_t pid, GError **error)
{
    const char *slash = strrchr(template, '/');
    g_autofree char *folder = NULL;

    *ret = (struct tm_directory){.fd = -1};
    /* Variables in the folder's name can only be expanded by the agent. */
    if (!slash || memchr(template, '$', (size_t)(slash - template))) {
        folder = g_strdup(slash == template ? "/" : ".");
        ret->name = g_strdup(template);
    } else {
        folder = slash == template ? g_strdup("/") : g_strndup(template, (gsize)(slash - template));
        ret->name = g_strdup(slash + 1);
    }
    ret->fd = open_directory(folder);
    if (ret->fd < 0) {
        int number = errno;
        tm_directory_done(ret);
        return fail(error, folder, number);
    }
    ret->path = realpath(folder, NULL);
    if (!ret->path)
        ret->path = g_strdup(folder);
    if (adapt_to_user(ret, pid, error))
        return true;
    tm_directory_done(ret);
    return false;
}

void tm_directory_done(struct tm_directory *directory)
{
    if (directory->fd >= 0)
        close(directory->fd);
    g_free(directory->path);
    g_free(directory->name);
    *directory = (struct tm_directory){.fd = -1};
}
