// SPDX-License-Identifier: MIT
/* Formats that other people's tools read: each is one file, export_<name>.c. */
#pragma once

#include <glib.h>
#include <stdio.h>

#include "analyzer/core/compare.h"
#include "analyzer/session.h"

typedef struct {
    TmSnapshot *snapshot;
    TmSnapshot *base;     /* what it is compared with; NULL: nothing */
    struct tm_diff *diff; /* all tracebacks; ids are nodes of the model; NULL where not needed */
    int tuple_items;      /* pickle: items of a trace's tuple, 2 to 4 */
    FILE *out;
} TmExport;

typedef struct {
    const char *name;
    const char *suffix;  /* of file names that ask for this format */
    gboolean needs_diff; /* tracebacks are summed up before `write` is called */
    gboolean takes_base;
    gboolean needs_fd; /* cannot be written to a pipe */
    /* How many frames all tracebacks together may have, since they are held in memory; 0: as many
     * as there are. Tracebacks share their frames in a .tms, so that a small file can have more
     * than any memory. */
    guint64 frames_max;
    gboolean (*write)(const TmExport *job, GError **error);
} TmExportFormat;

extern const TmExportFormat tm_export_pprof;
extern const TmExportFormat tm_export_collapsed;
extern const TmExportFormat tm_export_speedscope;
extern const TmExportFormat tm_export_dhat;
extern const TmExportFormat tm_export_heaptrack;
extern const TmExportFormat tm_export_pickle;
extern const TmExportFormat tm_export_csv;
extern const TmExportFormat tm_export_json;
extern const TmExportFormat tm_export_tms;

/* Formats of single blocks have no word for an estimate: there a sampled block is written as often
 * as it stands for blocks like it. Rounding is made up for by those that follow. */
typedef struct {
    double mean_bytes; /* 0: nothing was sampled, and each is written once */
    double owed_bytes;
} TmRepeat;

/* How often for `count` blocks of this size by estimate. */
gint64 tm_export_repeat(TmRepeat *repeat, guint64 size_bytes, double count);
/* False: it would be more blocks than anybody's memory holds; the error says so. */
gboolean tm_export_check_repeats(TmSnapshot *snapshot, const char *format, GError **error);

/* False: the tracebacks of both together have more frames than the format's frames_max; the error
 * says so. then: may be NULL. */
gboolean tm_export_check_frames(const TmExportFormat *format, const struct tm_model *model,
                                const struct tm_groups *now, const struct tm_groups *then,
                                GError **error);

/* "function (file:line)", or "file:line" where the function is unknown. Newlines and other control
 * characters become spaces, as does `forbidden`, if not 0. */
void tm_export_append_frame(GString *out, const struct tm_model *model, guint32 site,
                            char forbidden);
/* The same without the line: what groups the lines of a function; "file:line" where unknown. */
void tm_export_append_function(GString *out, const struct tm_model *model, guint32 site);
