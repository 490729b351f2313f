// SPDX-License-Identifier: MIT
#include "payload/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "payload/clock.h"
#include "payload/errtext.h"
#include "payload/template.h"

#define FILE_MODE 0644
#define NAMES_TO_TRY 100000
#define RENAME_NOREPLACE_FLAG 1 /* RENAME_NOREPLACE of linux/fs.h */

/* A file under construction. */
struct draft {
    int fd;
    bool anonymous; /* has no name yet; else temp_path is its name */
    char temp_path[TM_OUTPUT_PATH_BYTES];
};

void tm_output_init(struct tm_output *output)
{
    *output = (struct tm_output){.directory = TM_OWNFD_NONE};
}

void tm_output_done(struct tm_output *output)
{
    tm_ownfd_close(&output->directory);
}

static int directory_of(const struct tm_output *output)
{
    if (output->directory.fd < 0)
        return AT_FDCWD;
    return tm_ownfd_is_ours(&output->directory) ? output->directory.fd : -EBADF;
}

static bool expand(const struct tm_output *output, uint64_t counter, char *ret, size_t ret_bytes)
{
    struct tm_template_values values = {
        .pid = output->shown_pid,
        .counter = counter,
        .real_ns = tm_clock_real_ns(),
        .utc_offset_s = output->utc_offset_s,
    };
    return tm_template_expand(output->template, &values, ret, ret_bytes);
}

/* "a/b.tms" -> "a/.b.tms.PID.tmp": beside the file, out of the way of a glob, and of a length
 * that file systems take. */
static bool temp_name(const char *path, char *ret, size_t ret_bytes)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    int n = snprintf(ret, ret_bytes, "%.*s.%.200s.%d.tmp", (int)(base - path), path, base,
                     (int)getpid());
    return n > 0 && (size_t)n < ret_bytes;
}

static int open_anonymous(int dir, const char *path)
{
    char folder[TM_OUTPUT_PATH_BYTES];
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;

    memcpy(folder, path, length);
    if (!slash)
        folder[length++] = '.';
    else if (length == 0)
        folder[length++] = '/';
    folder[length] = '\0';
    return openat(dir, folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, FILE_MODE);
}

static int draft_open(struct draft *draft, int dir, const char *path, bool anonymous)
{
    if (!temp_name(path, draft->temp_path, sizeof(draft->temp_path)))
        return -ENAMETOOLONG;
    draft->anonymous = anonymous;
    if (anonymous) {
        draft->fd = open_anonymous(dir, path);
    } else {
        /* What has this name can only be a rest of ours: the process id is in it. */
        unlinkat(dir, draft->temp_path, 0);
        draft->fd = openat(dir, draft->temp_path,
                           O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, FILE_MODE);
    }
    return draft->fd < 0 ? -errno : 0;
}

/* Gives an anonymous draft a name; fails where the name is taken. */
static int draft_link(struct draft *draft, int dir, const char *path)
{
    char self[40];

    snprintf(self, sizeof(self), "/proc/thread-self/fd/%d", draft->fd);
    return linkat(AT_FDCWD, self, dir, path, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

/* Moves the temporary name without replacing, on kernels and file systems that cannot, too. */
static int rename_noreplace(int dir, const char *from, const char *to)
{
    struct stat st;

    if (!syscall(SYS_renameat2, dir, from, dir, to, RENAME_NOREPLACE_FLAG))
        return 0;
    if (errno != ENOSYS && errno != EINVAL)
        return -errno;
    if (!linkat(dir, from, dir, to, 0)) {
        unlinkat(dir, from, 0);
        return 0;
    }
    if (errno == EEXIST)
        return -EEXIST;
    if (!tm_sys_fstatat(dir, to, &st))
        return -EEXIST;
    return renameat(dir, from, dir, to) ? -errno : 0;
}

/* Makes the draft appear as `path`. `replace`: what is there is ours. */
static int draft_publish(struct draft *draft, int dir, const char *path, bool replace)
{
    if (draft->anonymous && !replace)
        return draft_link(draft, dir, path);
    if (draft->anonymous) {
        unlinkat(dir, draft->temp_path, 0);
        int status = draft_link(draft, dir, draft->temp_path);
        if (status < 0)
            return status;
        draft->anonymous = false;
    }
    if (replace)
        return renameat(dir, draft->temp_path, dir, path) ? -errno : 0;
    return rename_noreplace(dir, draft->temp_path, path);
}

static void draft_drop(struct draft *draft, int dir)
{
    if (draft->fd >= 0)
        close(draft->fd);
    if (draft->fd >= 0 && !draft->anonymous)
        unlinkat(dir, draft->temp_path, 0);
    draft->fd = -1;
}

/* Makes and removes a file in the way that snapshots will take. */
static int try_draft(int dir, const char *path, bool anonymous)
{
    struct draft draft = {.fd = -1};
    int status = draft_open(&draft, dir, path, anonymous);

    if (status == 0 && anonymous) {
        unlinkat(dir, draft.temp_path, 0);
        status = draft_link(&draft, dir, draft.temp_path);
        draft.anonymous = status < 0;
    }
    draft_drop(&draft, dir);
    return status;
}

bool tm_output_next_name(const struct tm_output *output, char *ret, size_t ret_bytes)
{
    int dir = directory_of(output);
    struct stat st;

    for (int i = 1; i <= NAMES_TO_TRY; i++) {
        if (!expand(output, output->counter + (uint64_t)i, ret, ret_bytes))
            return false;
        if (dir == -EBADF || !tm_template_has(output->template, "$counter") ||
            tm_sys_fstatat(dir, ret, &st) < 0)
            return true;
    }
    return true;
}

static bool has_running_name(const char *template)
{
    return tm_template_has(template, "$counter") || tm_template_has(template, "$timestamp");
}

int tm_output_configure(struct tm_output *output, const struct tm_options *options,
                        int directory_fd, char *message, size_t message_bytes)
{
    struct tm_output fresh = *output;
    char path[TM_OUTPUT_PATH_BYTES];
    struct stat st;
    int status = 0;

    if (directory_fd >= 0)
        fresh.directory = tm_ownfd_adopt(directory_fd);
    else if (options->in_target)
        fresh.directory = TM_OWNFD_NONE;
    bool new_directory = fresh.directory.fd != output->directory.fd;
    fresh.shown_pid = options->shown_pid ? options->shown_pid : (uint64_t)getpid();
    fresh.utc_offset_s = options->utc_offset_s;
    if (strcmp(fresh.template, options->output)) {
        strcpy(fresh.template, options->output); /* the same size */
        fresh.has_last = false;
    }
    int dir = directory_of(&fresh);
    if (!tm_output_next_name(&fresh, path, sizeof(path)))
        status = -ENAMETOOLONG;
    if (status == 0) {
        fresh.anonymous = try_draft(dir, path, true) == 0;
        status = fresh.anonymous ? 0 : try_draft(dir, path, false);
    }
    if (status == 0) {
        int there = tm_sys_fstatat(dir, path, &st);
        if (there == 0 && !fresh.has_last && !has_running_name(fresh.template))
            status = -EEXIST;
        else if (there < 0 && there != -ENOENT)
            status = there; /* e.g. longer than the draft's name */
    }
    if (status < 0) {
        snprintf(message, message_bytes, "%.1000s: %s", path, tm_errtext(-status));
        if (new_directory)
            tm_ownfd_close(&fresh.directory);
        return status;
    }
    if (new_directory)
        tm_ownfd_close(&output->directory);
    *output = fresh;
    return 0;
}

/* Whether `path` is the file that this session wrote last. */
static bool is_last(const struct tm_output *output, int dir, const char *path)
{
    struct stat st;

    return output->has_last && !tm_sys_fstatat(dir, path, &st) &&
           st.st_dev == output->last_device && st.st_ino == output->last_inode;
}

/* Advances the counter to a name that is free, or that may be replaced. */
static int choose_name(struct tm_output *output, int dir, char *ret, size_t ret_bytes,
                       bool *ret_replace)
{
    struct stat st;

    for (int i = 0; i < NAMES_TO_TRY; i++) {
        if (!expand(output, ++output->counter, ret, ret_bytes))
            return -ENAMETOOLONG;
        *ret_replace = false;
        if (tm_sys_fstatat(dir, ret, &st) < 0)
            return 0; /* free; or the error shows when the file is opened */
        if (!tm_template_has(output->template, "$counter")) {
            *ret_replace = is_last(output, dir, ret);
            return *ret_replace ? 0 : -EEXIST;
        }
    }
    return -EEXIST;
}

/* Publishes; where somebody took the name meanwhile, under the next one. */
static int publish(struct tm_output *output, struct draft *draft, int dir, char *path,
                   size_t path_bytes, bool replace)
{
    int status = draft_publish(draft, dir, path, replace);

    while (status == -EEXIST && tm_template_has(output->template, "$counter")) {
        status = choose_name(output, dir, path, path_bytes, &replace);
        if (status == 0)
            status = draft_publish(draft, dir, path, replace);
    }
    return status;
}

static int write_draft(struct tm_output *output, struct draft *draft, int dir,
                       const struct tm_snapshot_options *options, bool replace,
                       struct tm_output_result *ret)
{
    struct tm_snapshot_options with_counter = *options;
    struct stat st;

    with_counter.counter = (uint32_t)output->counter;
    int status = tm_snapshot_write(draft->fd, &with_counter, &ret->snapshot);
    if (status == 0 && fsync(draft->fd))
        status = -errno;
    if (status == 0)
        status = tm_sys_fstat(draft->fd, &st);
    if (status == 0)
        status = publish(output, draft, dir, ret->file, sizeof(ret->file), replace);
    if (status < 0)
        return status;
    output->has_last = true;
    output->last_device = st.st_dev;
    output->last_inode = st.st_ino;
    close(draft->fd);
    draft->fd = -1;
    return 0;
}

int tm_output_write(struct tm_output *output, const struct tm_snapshot_options *options,
                    struct tm_output_result *ret)
{
    struct draft draft = {.fd = -1};
    bool replace = false;
    int dir = directory_of(output);

    ret->file[0] = ret->message[0] = '\0';
    ret->snapshot = (struct tm_snapshot_result){0};
    int status =
        dir == -EBADF ? -EBADF : choose_name(output, dir, ret->file, sizeof(ret->file), &replace);
    if (status == 0)
        status = draft_open(&draft, dir, ret->file, output->anonymous);
    if (status == 0)
        status = write_draft(output, &draft, dir, options, replace, ret);
    if (status < 0) {
        draft_drop(&draft, dir);
        const char *why = ret->snapshot.message[0] ? ret->snapshot.message : tm_errtext(-status);
        snprintf(ret->message, sizeof(ret->message), "%.160s: %.150s", ret->file, why);
        return status;
    }
    if (dir >= 0)
        fsync(dir); /* so that the name, too, survives a crash of the machine */
    return 0;
}
