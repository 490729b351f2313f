// SPDX-License-Identifier: MIT
/* CSV and JSON of every traceback: what scripts and spreadsheets read. */
#include "analyzer/export.h"

#include "analyzer/document.h"
#include "analyzer/output.h"
#include "analyzer/render.h"

static TmDocument *make_document(const TmExport *job)
{
    TmDocument *document = tm_document_new("convert");
    const struct tm_model *model = job->snapshot->image.model;
    TmTable *items = tm_document_table(
        document, "items",
        "file line function traceback value size size_diff count count_diff average");
    TmTable *snapshots =
        tm_document_table(document, "snapshots", "snapshot path timestamp timestamp_ns pid");

    for (size_t i = 0; i < job->diff->n_rows; i++) {
        const struct tm_change *row = &job->diff->rows[i];

        tm_output_group(items, model, TM_BY_TRACEBACK, row->id);
        tm_table_u64(items, row->size);
        if (job->base)
            tm_table_i64(items, row->size_diff);
        else
            tm_table_null(items);
        tm_table_u64(items, row->count);
        if (job->base)
            tm_table_i64(items, row->count_diff);
        else
            tm_table_null(items);
        if (row->count)
            tm_table_u64(items, row->size / row->count);
        else
            tm_table_null(items);
    }
    if (job->base)
        tm_output_snapshot(snapshots, 0, job->base);
    tm_output_snapshot(snapshots, job->base ? 1 : 0, job->snapshot);
    return document;
}

static gboolean write_csv(const TmExport *job, GError **error)
{
    g_autoptr(TmDocument) document = make_document(job);

    (void)error;
    tm_document_write_csv(document, job->out);
    return TRUE;
}

static gboolean write_json(const TmExport *job, GError **error)
{
    g_autoptr(TmDocument) document = make_document(job);

    (void)error;
    tm_document_write_json(document, job->out);
    return TRUE;
}

#define FRAMES_MAX (1u << 24)

const TmExportFormat tm_export_csv = {
    .name = "csv",
    .suffix = ".csv",
    .needs_diff = TRUE,
    .frames_max = FRAMES_MAX,
    .takes_base = TRUE,
    .write = write_csv,
};
const TmExportFormat tm_export_json = {
    .name = "json",
    .suffix = ".json",
    .needs_diff = TRUE,
    .frames_max = FRAMES_MAX,
    .takes_base = TRUE,
    .write = write_json,
};
