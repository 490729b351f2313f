// SPDX-License-Identifier: MIT
/* What the exports have in common. */
#include "analyzer/export.h"

#include <inttypes.h>

static void append_clean(GString *out, struct tms_str text, char forbidden)
{
    for (gsize i = 0; i < text.n_bytes; i++) {
        char c = text.bytes[i];
        g_string_append_c(out,
                          (guchar)c < 0x20 || c == 0x7f || (forbidden && c == forbidden) ? ' ' : c);
    }
}

static void append_place(GString *out, const struct tm_model *model,
                         const struct tm_model_site *site, char forbidden)
{
    if (site->kind == TMS_SITE_NATIVE && site->file == TM_MODEL_NO_STRING && site->address) {
        append_clean(out, tm_model_string(model, site->module), forbidden);
        g_string_append_printf(out, "+0x%" PRIx64, site->address);
        return;
    }
    if (site->file == TM_MODEL_NO_STRING)
        g_string_append(out, "???");
    else
        append_clean(out, tm_model_string(model, site->file), forbidden);
    if (site->line > 0)
        g_string_append_printf(out, ":%d", site->line);
}

void tm_export_append_frame(GString *out, const struct tm_model *model, guint32 id, char forbidden)
{
    const struct tm_model_site *site = tm_model_site(model, id);

    if (site->function == TM_MODEL_NO_STRING) {
        append_place(out, model, site, forbidden);
        return;
    }
    append_clean(out, tm_model_string(model, site->function), forbidden);
    g_string_append(out, " (");
    append_place(out, model, site, forbidden);
    g_string_append_c(out, ')');
}

void tm_export_append_function(GString *out, const struct tm_model *model, guint32 id)
{
    const struct tm_model_site *site = tm_model_site(model, id);

    if (site->function == TM_MODEL_NO_STRING)
        append_place(out, model, site, 0);
    else
        append_clean(out, tm_model_string(model, site->function), 0);
}
