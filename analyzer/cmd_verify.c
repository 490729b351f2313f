// SPDX-License-Identifier: MIT
/* tm-analyze verify FILE...: is every byte of these files what its writer wrote? */
#include <inttypes.h>
#include <stdio.h>

#include "analyzer/command.h"
#include "analyzer/core/grouping.h"
#include "analyzer/core/scan.h"
#include "analyzer/document.h"
#include "analyzer/output.h"
#include "analyzer/session.h"

typedef struct {
    gboolean ok;
    char *message; /* what is wrong; NULL where all is well */
    guint64 traces, traced_bytes;
    guint32 sites, tracebacks;
} Verdict;

static gboolean check_groups(const struct tms_file *file, GError **error)
{
    struct tms_error reason = {0};

    for (guint32 i = 0; i < file->n_groups; i++) {
        if (!tms_group_check(file, i, &reason)) {
            tm_error_set_from_reader(error, &reason);
            return FALSE;
        }
    }
    return TRUE;
}

static bool sum_rows(void *state, const struct tm_batch *batch)
{
    guint64 *sum = state;

    for (guint32 i = 0; i < batch->count; i++)
        *sum += batch->column.size_bytes[i];
    return true;
}

/* Decodes every column, and holds the sums against those of the end section. */
static gboolean check_traces(const struct tms_file *file, GError **error)
{
    struct tms_error reason = {0};
    guint64 sum = 0;
    void *states[1] = {&sum};

    if (!tm_scan(file,
                 TM_SCAN_ADDRESS | TM_SCAN_NODE | TM_SCAN_SIZE | TM_SCAN_DOMAIN | TM_SCAN_AGE |
                     TM_SCAN_TYPE | TM_SCAN_THREAD,
                 sum_rows, states, 1, &reason)) {
        tm_error_set_from_reader(error, &reason);
        return FALSE;
    }
    return sum == file->end.traced_bytes ||
           tm_error_data(error, "its traces hold %" PRIu64 " bytes, its end says %" PRIu64,
                         (uint64_t)sum, (uint64_t)file->end.traced_bytes);
}

/* Live counters of sites are of the same moment as the traces, unless traces were dropped. */
static gboolean check_stats(TmSnapshot *snapshot, GError **error)
{
    guint64 bytes = 0, blocks = 0;

    if (!tm_image_has_traces(&snapshot->image) || snapshot->file.n_stats == 0 ||
        tms_file_fact_i64(&snapshot->file, "dropped", 0) ||
        tms_file_fact_i64(&snapshot->file, "sample_bytes", 0) ||
        tms_file_fact_i64(&snapshot->file, "torn", 0))
        return TRUE;
    for (guint32 i = 0; i < snapshot->file.n_stats; i++) {
        bytes += snapshot->file.stats[i].live_bytes;
        blocks += snapshot->file.stats[i].live_blocks;
    }
    if (bytes == snapshot->file.end.traced_bytes && blocks == snapshot->file.end.traces)
        return TRUE;
    return tm_error_data(error,
                         "its stats count %" PRIu64 " blocks of %" PRIu64
                         " bytes, its traces %" PRIu64 " of %" PRIu64,
                         blocks, bytes, (uint64_t)snapshot->file.end.traces,
                         (uint64_t)snapshot->file.end.traced_bytes);
}

static Verdict verify(const char *path)
{
    TmSnapshot snapshot = {0};
    struct tm_model model;
    GError *error = NULL;
    Verdict verdict = {0};

    if (!tm_model_init(&model))
        g_error("not enough memory");
    verdict.ok = tm_snapshot_open(&snapshot, path, &error) &&
                 (tm_image_init(&snapshot.image, &model, &snapshot.file) ||
                  tm_error_data(&error, "not enough memory")) &&
                 check_groups(&snapshot.file, &error) && check_traces(&snapshot.file, &error) &&
                 check_stats(&snapshot, &error);
    verdict.traces = snapshot.file.end.traces;
    verdict.traced_bytes = snapshot.file.end.traced_bytes;
    verdict.sites = snapshot.file.n_sites;
    verdict.tracebacks = snapshot.file.n_nodes;
    verdict.message = error ? g_strdup(error->message) : NULL;
    g_clear_error(&error);
    tm_snapshot_done(&snapshot);
    tm_model_done(&model);
    return verdict;
}

static void report(const char *path, const Verdict *verdict, TmTable *table)
{
    if (table) {
        tm_table_string(table, path);
        tm_table_bool(table, verdict->ok);
        tm_table_string(table, verdict->message);
        tm_table_u64(table, verdict->traces);
        tm_table_u64(table, verdict->traced_bytes);
        tm_table_u64(table, verdict->sites);
        tm_table_u64(table, verdict->tracebacks);
    } else if (verdict->ok) {
        printf("%s: ok, %" PRIu64 " traces of %" PRIu64 " bytes, %u sites, %u tracebacks\n", path,
               verdict->traces, verdict->traced_bytes, verdict->sites, verdict->tracebacks);
    } else {
        fflush(stdout);
        fprintf(stderr, "ERROR: Failed to load %s: %s\n", path, verdict->message);
    }
}

static TmExit run(const TmOptions *options, GError **error)
{
    g_autoptr(TmDocument) document = tm_document_new("verify");
    TmExit status = TM_EXIT_OK;
    TmTable *table = NULL;

    if (options->files[0] == NULL) {
        tm_error_usage(error, "verify needs snapshots");
        return TM_EXIT_USAGE;
    }
    if (options->output != TM_OUTPUT_TEXT)
        table = tm_document_table(document, "files",
                                  "path ok message traces traced_bytes sites tracebacks");
    for (char **path = options->files; *path; path++) {
        Verdict verdict = verify(*path);
        report(*path, &verdict, table);
        if (!verdict.ok)
            status = TM_EXIT_DATA;
        g_free(verdict.message);
    }
    if (table)
        tm_output_document(document, options->output);
    return status;
}

const TmCommand tm_cmd_verify = {
    .name = "verify",
    .takes = TM_TAKES_OUTPUT,
    .parameters = "FILE...",
    .summary = "Checks that snapshots are whole.",
    .run = run,
};
