// SPDX-License-Identifier: MIT
/*
 * The snapshots that one run of tm-analyze looks at: opened, put in the order
 * of their timestamps, expressed in one model, filtered.
 */
#pragma once

#include <glib.h>

#include "analyzer/core/filter.h"
#include "analyzer/core/grouping.h"
#include "analyzer/core/model.h"
#include "analyzer/core/sampled.h"
#include "format/tms_reader.h"

typedef struct {
    char *path;
    void *memory; /* a converted pickle; NULL: the file is mapped */
    gsize memory_bytes;
    struct tms_file file;
    struct tm_image image;
    gint64 pid; /* 0: unknown */
} TmSnapshot;

typedef struct {
    struct tm_model model;
    GPtrArray *snapshots;      /* of TmSnapshot, ascending by timestamp */
    struct TmSymbols *symbols; /* strings of the model; NULL: no native frames */
    gint64 progress_from;      /* monotonic time in us */
} TmSession;

typedef enum {
    TM_PROGRESS_NEVER,
    TM_PROGRESS_LONG,   /* when stderr is a terminal and the work takes long */
    TM_PROGRESS_ALWAYS, /* as the documented command line does */
} TmProgress;

/* Opens all files; a name that does not exist and has jokers is expanded as a glob. Errors are
 * prefixed with "Failed to load F: ". */
TmSession *tm_session_open(char *const *paths, TmProgress progress, GError **error);
void tm_session_free(TmSession *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TmSession, tm_session_free)

static inline TmSnapshot *tm_session_get(const TmSession *session, guint i)
{
    return session->snapshots->pdata[i];
}

/* Opens one file into a zeroed snapshot, .tms or pickle, without a model. */
gboolean tm_snapshot_open(TmSnapshot *snapshot, const char *path, GError **error);
void tm_snapshot_done(TmSnapshot *snapshot);

gboolean tm_session_filter(TmSession *session, const struct tm_filter *filters, gsize n_filters,
                           GError **error);
/* Fails with "The snapshot F does not contain traces, only stats" if one has none. */
gboolean tm_session_require_traces(const TmSession *session, GError **error);
/* Fails the same way if one has traces without addresses, as those of the standard library. */
gboolean tm_session_require_addresses(const TmSession *session, GError **error);
/* Whether its traces tell domains apart; those of the standard library do not. */
gboolean tm_snapshot_has_domains(const TmSnapshot *snapshot);
/* Whether they tell when they were allocated. */
gboolean tm_snapshot_has_ages(const TmSnapshot *snapshot);
/* Whether they tell which threads allocated them. */
gboolean tm_snapshot_has_threads(const TmSnapshot *snapshot);
/* Groups one snapshot; errors name the file. */
gboolean tm_session_group(TmSession *session, guint i, enum tm_group_by by, unsigned flags,
                          struct tm_groups *ret, GError **error);
/* How good the sums of a snapshot are; errors name the file. */
gboolean tm_snapshot_estimate(const TmSnapshot *snapshot, struct tm_estimate *ret, GError **error);
/* The pids, "123, 124", if there is more than one; NULL otherwise. */
char *tm_session_mixed_pids(const TmSession *session);
