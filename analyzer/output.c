// SPDX-License-Identifier: MIT
/* Cells that the tables of several commands have in common. */
#include "analyzer/output.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "analyzer/render.h"
#include "analyzer/text.h"

void tm_output_document(const TmDocument *document, TmOutput output)
{
    if (output == TM_OUTPUT_JSON)
        tm_document_write_json(document, stdout);
    else
        tm_document_write_csv(document, stdout);
}

static void add_value(TmTable *table, enum tm_group_by by, guint64 value)
{
    static const char *const domains[] = {"raw", "mem", "obj"};
    char text[32];

    if (by == TM_BY_ADDRESS) {
        /* As text: JSON's numbers are doubles to many readers. */
        g_snprintf(text, sizeof text, "0x%" PRIx64, value);
        tm_table_string(table, text);
    } else if (by == TM_BY_DOMAIN) {
        tm_table_string(table, value < G_N_ELEMENTS(domains) ? domains[value] : NULL);
    } else if (by == TM_BY_THREAD && value == 0) {
        tm_table_null(table);
    } else {
        tm_table_u64(table, value);
    }
}

void tm_output_group(TmTable *table, const struct tm_model *model, enum tm_group_by by, guint64 id)
{
    struct tm_group_label label = tm_group_describe(model, by, id);

    if (by == TM_BY_TRACEBACK && label.node != TM_MODEL_EMPTY) {
        const struct tm_model_site *site =
            tm_model_site(model, tm_model_node(model, label.node)->site);
        label.file = tm_model_string(model, site->file);
        label.function = tm_model_string(model, site->function);
        label.line = site->line;
    }
    if (by == TM_BY_TYPE)
        tm_table_null(table);
    else
        tm_table_str(table, label.file);
    if (label.line > 0)
        tm_table_i64(table, label.line);
    else
        tm_table_null(table);
    tm_table_str(table, label.function);
    if (by == TM_BY_TRACEBACK)
        tm_table_list(table, tm_render_frames(model, label.node));
    else
        tm_table_null(table);
    if (by == TM_BY_TYPE)
        tm_table_str(table, label.file);
    else if (by > TM_BY_TRACEBACK && by != TM_BY_MODULE)
        add_value(table, by, label.value);
    else
        tm_table_null(table);
}

void tm_output_snapshot(TmTable *table, guint index, const TmSnapshot *snapshot)
{
    g_autofree char *timestamp = tm_text_timestamp(snapshot->file.timestamp_ns);

    tm_table_u64(table, index);
    tm_table_string(table, snapshot->path);
    tm_table_string(table, timestamp);
    tm_table_u64(table, snapshot->file.timestamp_ns);
    if (snapshot->pid)
        tm_table_i64(table, snapshot->pid);
    else
        tm_table_null(table);
}

gboolean tm_output_collides(TmOutput output, const char *output_path)
{
    return output != TM_OUTPUT_TEXT && (output_path == NULL || strcmp(output_path, "-") == 0);
}

void tm_output_written(TmDocument *document, const TmWritten *written)
{
    TmTable *table =
        tm_document_table(document, "files", "path format bytes size size_diff count count_diff");
    struct stat st;

    tm_table_string(table, written->path);
    tm_table_string(table, written->format);
    if (stat(written->path, &st) == 0)
        tm_table_i64(table, (gint64)st.st_size);
    else
        tm_table_null(table);
    tm_table_u64(table, written->size_bytes);
    if (written->has_base)
        tm_table_i64(table, written->size_diff_bytes);
    else
        tm_table_null(table);
    tm_table_u64(table, written->count);
    if (written->has_base)
        tm_table_i64(table, written->count_diff);
    else
        tm_table_null(table);
}

void tm_output_session(TmDocument *document, const TmSession *session)
{
    TmTable *table =
        tm_document_table(document, "snapshots", "snapshot path timestamp timestamp_ns pid");

    for (guint i = 0; i < session->snapshots->len; i++)
        tm_output_snapshot(table, i, tm_session_get(session, i));
}
