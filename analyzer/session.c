// SPDX-License-Identifier: MIT
/* Loading snapshots. One thread. */
#include "analyzer/session.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "analyzer/error.h"
#include "analyzer/options.h"
#include "analyzer/pickle_load.h"
#include "analyzer/progress.h"
#include "analyzer/symbolize.h"

static gboolean check_kind(const char *path, struct stat *ret, GError **error)
{
    if (stat(path, ret) != 0)
        return tm_error_data(error, "%s", g_strerror(errno));
    if (S_ISDIR(ret->st_mode))
        return tm_error_data(error, "is a directory");
    if (!S_ISREG(ret->st_mode))
        return tm_error_data(error, "is not a regular file");
    if (ret->st_size == 0)
        return tm_error_data(error, "is empty");
    return TRUE;
}

/* Up to 8 bytes from the file's begin, to tell its kind. */
static gboolean peek(const char *path, guint8 ret[8], GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;

    memset(ret, 0, 8);
    if (fd >= 0) {
        n = read(fd, ret, 8);
        close(fd);
    }
    return n >= 0 || tm_error_data(error, "%s", g_strerror(errno));
}

static gboolean is_tms(const guint8 head[8])
{
    /* The first byte alone decides, so that a damaged magic is called that and not "pickle". */
    return head[0] == (guint8)TMS_MAGIC[0];
}

gboolean tm_snapshot_open(TmSnapshot *snapshot, const char *path, GError **error)
{
    struct tms_error reason = {0};
    struct stat st;
    guint8 head[8];

    if (!check_kind(path, &st, error) || !peek(path, head, error))
        return FALSE;
    snapshot->path = g_strdup(path);
    if (is_tms(head)) {
        /* Each group's checksum is tested when the group is decoded, by the thread that does. */
        if (!tms_file_open(&snapshot->file, path, TMS_OPEN_NO_CHECKSUMS, &reason)) {
            tm_error_set_from_reader(error, &reason);
            return FALSE;
        }
    } else if (tm_pickle_looks_like(head)) {
        snapshot->memory = tm_pickle_load(path, &snapshot->memory_bytes, error);
        if (snapshot->memory == NULL)
            return FALSE;
        if (!tms_file_open_memory(&snapshot->file, snapshot->memory, snapshot->memory_bytes,
                                  TMS_OPEN_NO_CHECKSUMS, &reason)) {
            tm_error_set_from_reader(error, &reason);
            return FALSE;
        }
    } else {
        return tm_error_data(error, "is neither a .tms snapshot nor a pickle of tracemalloc "
                                    "(at byte 0)");
    }
    snapshot->pid = tms_file_fact_i64(&snapshot->file, "pid", 0);
    return TRUE;
}

void tm_snapshot_done(TmSnapshot *snapshot)
{
    tm_image_done(&snapshot->image);
    tms_file_close(&snapshot->file);
    if (snapshot->memory)
        tm_pickle_unload(snapshot->memory, snapshot->memory_bytes);
    g_free(snapshot->path);
    memset(snapshot, 0, sizeof *snapshot);
}

static void snapshot_free(void *data)
{
    tm_snapshot_done(data);
    g_free(data);
}

static guint count_files(const TmSnapshot *snapshot)
{
    g_autofree guint8 *seen = g_malloc0(snapshot->file.n_strings + 1u);
    guint n = 0;

    for (guint32 i = 0; i < snapshot->file.n_sites; i++) {
        guint32 name = snapshot->file.sites[i].file;
        if (name < snapshot->file.n_strings && !seen[name]) {
            seen[name] = 1;
            n++;
        }
    }
    return n;
}

static gboolean load(TmSession *session, const char *path, TmProgress progress, GError **error)
{
    TmSnapshot *snapshot = g_new0(TmSnapshot, 1);
    gint64 start = g_get_monotonic_time();

    g_ptr_array_add(session->snapshots, snapshot);
    tm_progress(progress, session->progress_from, "Load snapshot %s", path);
    if (!tm_snapshot_open(snapshot, path, error)) {
        g_prefix_error(error, "Failed to load %s: ", path);
        return FALSE;
    }
    if (!tm_image_init(&snapshot->image, &session->model, &snapshot->file))
        return tm_error_data(error, "Failed to load %s: not enough memory", path);
    if (progress == TM_PROGRESS_ALWAYS)
        tm_progress(progress, session->progress_from,
                    "Load snapshot %s: %u files, %" PRIu64 " traces (limit=%" PRId64
                    " frames) (%.1f sec)",
                    path, count_files(snapshot), snapshot->file.end.traces,
                    tm_image_traceback_limit(&snapshot->image),
                    (double)(g_get_monotonic_time() - start) / 1e6);
    return TRUE;
}

static gboolean load_pattern(TmSession *session, const char *path, TmProgress progress,
                             GError **error)
{
    glob_t found = {0};
    gboolean ok = TRUE;

    if (access(path, F_OK) == 0 || strpbrk(path, "*?[") == NULL)
        return load(session, path, progress, error);
    if (glob(path, 0, NULL, &found) != 0)
        ok = tm_error_data(error, "Failed to load %s: no such file", path);
    for (gsize i = 0; ok && i < found.gl_pathc; i++)
        ok = load(session, found.gl_pathv[i], progress, error);
    globfree(&found);
    return ok;
}

static int compare_timestamps(const void *a, const void *b)
{
    const TmSnapshot *x = *(const TmSnapshot *const *)a, *y = *(const TmSnapshot *const *)b;
    return (x->file.timestamp_ns > y->file.timestamp_ns) -
           (x->file.timestamp_ns < y->file.timestamp_ns);
}

TmSession *tm_session_open(char *const *paths, TmProgress progress, GError **error)
{
    g_autoptr(TmSession) session = g_new0(TmSession, 1);

    session->progress_from = g_get_monotonic_time();
    session->snapshots = g_ptr_array_new_with_free_func(snapshot_free);
    if (!tm_model_init(&session->model)) {
        tm_error_data(error, "not enough memory");
        return NULL;
    }
    for (; *paths; paths++) {
        if (!load_pattern(session, *paths, progress, error))
            return NULL;
    }
    /* A merge sort, so that snapshots of one moment stay in the order given. */
    g_ptr_array_sort(session->snapshots, compare_timestamps);
    session->symbols = tm_symbolize(session);
    return g_steal_pointer(&session);
}

void tm_session_free(TmSession *session)
{
    if (session == NULL)
        return;
    g_ptr_array_unref(session->snapshots);
    tm_model_done(&session->model);
    tm_symbolize_free(session->symbols);
    g_free(session);
}

gboolean tm_session_filter(TmSession *session, const struct tm_filter *filters, gsize n_filters,
                           GError **error)
{
    for (guint i = 0; i < session->snapshots->len; i++) {
        if (!tm_filters_apply(filters, n_filters, &tm_session_get(session, i)->image))
            return tm_error_data(error, "not enough memory");
    }
    return TRUE;
}

gboolean tm_session_require_traces(const TmSession *session, GError **error)
{
    for (guint i = 0; i < session->snapshots->len; i++) {
        const TmSnapshot *snapshot = tm_session_get(session, i);
        if (!tm_image_has_traces(&snapshot->image))
            return tm_error_data(error, "The snapshot %s does not contain traces, only stats",
                                 snapshot->path);
    }
    return TRUE;
}

gboolean tm_session_require_addresses(const TmSession *session, GError **error)
{
    if (!tm_session_require_traces(session, error))
        return FALSE;
    for (guint i = 0; i < session->snapshots->len; i++) {
        const TmSnapshot *snapshot = tm_session_get(session, i);
        if (tms_file_fact_i64(&snapshot->file, "addresses", 1) == 0)
            return tm_error_data(error, "The snapshot %s does not contain addresses",
                                 snapshot->path);
    }
    return TRUE;
}

gboolean tm_snapshot_has_domains(const TmSnapshot *snapshot)
{
    const char *domains = tms_file_fact(&snapshot->file, "domains");

    return tm_image_has_traces(&snapshot->image) &&
           (domains == NULL || strcmp(domains, "unknown") != 0);
}

gboolean tm_snapshot_has_ages(const TmSnapshot *snapshot)
{
    return tm_image_has_traces(&snapshot->image) &&
           tms_file_fact_i64(&snapshot->file, "ages", 1) != 0;
}

gboolean tm_snapshot_has_threads(const TmSnapshot *snapshot)
{
    for (guint32 i = 0; i < snapshot->file.n_groups; i++) {
        if (snapshot->file.groups[i].head->thread_bytes)
            return TRUE;
    }
    return FALSE;
}

static gboolean cannot_load(const TmSnapshot *snapshot, const struct tms_error *reason,
                            GError **error)
{
    tm_error_set_from_reader(error, reason);
    g_prefix_error(error, "Failed to load %s: ", snapshot->path);
    return FALSE;
}

gboolean tm_session_group(TmSession *session, guint i, enum tm_group_by by, unsigned flags,
                          struct tm_groups *ret, GError **error)
{
    TmSnapshot *snapshot = tm_session_get(session, i);
    struct tms_error reason = {0};

    if (!tm_image_has_traces(&snapshot->image) && tm_group_by_needs_traces(by))
        return tm_error_data(error, "The snapshot %s does not contain traces, only stats",
                             snapshot->path);
    if ((by == TM_BY_DOMAIN && !tm_snapshot_has_domains(snapshot)) ||
        (by == TM_BY_AGE && !tm_snapshot_has_ages(snapshot)) ||
        (by == TM_BY_THREAD && !tm_snapshot_has_threads(snapshot)))
        return tm_error_data(error, "The snapshot %s does not contain %ss", snapshot->path,
                             tm_group_by_name(by));
    return tm_groups_make(&snapshot->image, by, flags, ret, &reason) ||
           cannot_load(snapshot, &reason, error);
}

gboolean tm_snapshot_estimate(const TmSnapshot *snapshot, struct tm_estimate *ret, GError **error)
{
    struct tms_error reason = {0};

    return tm_sampled_estimate(&snapshot->image, ret, &reason) ||
           cannot_load(snapshot, &reason, error);
}

char *tm_session_mixed_pids(const TmSession *session)
{
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(gint64));
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < session->snapshots->len; i++) {
        gint64 pid = tm_session_get(session, i)->pid;
        guint at = 0;
        while (at < list->len && g_array_index(list, gint64, at) < pid)
            at++;
        if (pid && (at == list->len || g_array_index(list, gint64, at) != pid))
            g_array_insert_val(list, at, pid);
    }
    for (guint i = 0; i < list->len; i++)
        g_string_append_printf(text, "%s%" PRId64, i ? ", " : "",
                               (int64_t)g_array_index(list, gint64, i));
    return g_string_free(text, list->len < 2);
}
