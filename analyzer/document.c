// SPDX-License-Identifier: MIT
/* Facts and tables, written as JSON and CSV. */
#include "analyzer/document.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "format/utf8.h"

typedef enum {
    CELL_NULL,
    CELL_STRING,
    CELL_U64,
    CELL_I64,
    CELL_DOUBLE,
    CELL_BOOL,
    CELL_LIST
} CellType;

typedef struct {
    CellType type;
    union {
        char *string;
        guint64 u;
        gint64 i;
        double d;
        gboolean b;
        GPtrArray *list;
    };
    gsize n_bytes; /* of the string, which may hold any byte */
} Cell;

struct TmTable {
    char *name;
    char **columns;
    guint n_columns;
    GArray *cells; /* of Cell, row after row */
};

typedef struct {
    char *name;
    Cell cell;
} Fact;

struct TmDocument {
    char *command;
    GArray *facts;     /* of Fact */
    GPtrArray *tables; /* of TmTable */
};

static void cell_clear(void *data)
{
    Cell *cell = data;

    if (cell->type == CELL_STRING)
        g_free(cell->string);
    else if (cell->type == CELL_LIST)
        g_ptr_array_unref(cell->list);
}

static void fact_clear(void *data)
{
    Fact *fact = data;

    g_free(fact->name);
    cell_clear(&fact->cell);
}

static void table_free(void *data)
{
    TmTable *table = data;

    g_free(table->name);
    g_strfreev(table->columns);
    g_array_unref(table->cells);
    g_free(table);
}

TmDocument *tm_document_new(const char *command)
{
    TmDocument *document = g_new0(TmDocument, 1);

    document->command = g_strdup(command);
    document->facts = g_array_new(FALSE, TRUE, sizeof(Fact));
    g_array_set_clear_func(document->facts, fact_clear);
    document->tables = g_ptr_array_new_with_free_func(table_free);
    return document;
}

void tm_document_free(TmDocument *document)
{
    if (document == NULL)
        return;
    g_free(document->command);
    g_array_unref(document->facts);
    g_ptr_array_unref(document->tables);
    g_free(document);
}

static void add_fact(TmDocument *document, const char *name, Cell cell)
{
    Fact fact = {g_strdup(name), cell};

    g_array_append_val(document->facts, fact);
}

static Cell string_cell(const char *bytes, gsize n_bytes)
{
    /* One more byte, so that an empty string is a pointer too. */
    Cell cell = {.type = CELL_STRING, .n_bytes = n_bytes};

    cell.string = g_malloc(n_bytes + 1);
    memcpy(cell.string, bytes, n_bytes);
    cell.string[n_bytes] = '\0';
    return cell;
}

void tm_document_string(TmDocument *document, const char *name, const char *value)
{
    add_fact(document, name, value ? string_cell(value, strlen(value)) : (Cell){.type = CELL_NULL});
}

void tm_document_u64(TmDocument *document, const char *name, guint64 value)
{
    add_fact(document, name, (Cell){.type = CELL_U64, .u = value});
}

void tm_document_i64(TmDocument *document, const char *name, gint64 value)
{
    add_fact(document, name, (Cell){.type = CELL_I64, .i = value});
}

void tm_document_bool(TmDocument *document, const char *name, gboolean value)
{
    add_fact(document, name, (Cell){.type = CELL_BOOL, .b = value});
}

TmTable *tm_document_table(TmDocument *document, const char *name, const char *columns)
{
    TmTable *table = g_new0(TmTable, 1);

    table->name = g_strdup(name);
    table->columns = g_strsplit(columns, " ", -1);
    table->n_columns = g_strv_length(table->columns);
    table->cells = g_array_new(FALSE, TRUE, sizeof(Cell));
    g_array_set_clear_func(table->cells, cell_clear);
    g_ptr_array_add(document->tables, table);
    return table;
}

static void add_cell(TmTable *table, Cell cell)
{
    g_array_append_val(table->cells, cell);
}

void tm_table_null(TmTable *table)
{
    add_cell(table, (Cell){.type = CELL_NULL});
}

void tm_table_string(TmTable *table, const char *value)
{
    if (value)
        add_cell(table, string_cell(value, strlen(value)));
    else
        tm_table_null(table);
}

void tm_table_str(TmTable *table, struct tms_str value)
{
    if (value.n_bytes)
        add_cell(table, string_cell(value.bytes, value.n_bytes));
    else
        tm_table_null(table);
}

void tm_table_u64(TmTable *table, guint64 value)
{
    add_cell(table, (Cell){.type = CELL_U64, .u = value});
}

void tm_table_i64(TmTable *table, gint64 value)
{
    add_cell(table, (Cell){.type = CELL_I64, .i = value});
}

void tm_table_double(TmTable *table, double value)
{
    add_cell(table, (Cell){.type = CELL_DOUBLE, .d = value});
}

void tm_table_bool(TmTable *table, gboolean value)
{
    add_cell(table, (Cell){.type = CELL_BOOL, .b = value});
}

void tm_table_list(TmTable *table, GPtrArray *strings)
{
    add_cell(table, (Cell){.type = CELL_LIST, .list = strings});
}

/* --- JSON --- */

void tm_json_append_string(GString *text, struct tms_str value)
{
    const char *p = value.bytes;
    gsize left = value.n_bytes;

    g_string_append_c(text, '"');
    while (left) {
        guint32 c = 0xfffd;
        gsize length = tm_utf8_decode(p, left, &c);
        if (length == 0)
            g_string_append(text, "\\ufffd");
        else if (c == '"' || c == '\\')
            g_string_append_printf(text, "\\%c", (char)c);
        else if (c < 0x20 || c == 0x7f || tm_utf8_is_surrogate(c))
            g_string_append_printf(text, "\\u%04x", c);
        else
            g_string_append_len(text, p, (gssize)length);
        p += length ? length : 1;
        left -= length ? length : 1;
    }
    g_string_append_c(text, '"');
}

static void append_double(GString *text, double value)
{
    char buffer[G_ASCII_DTOSTR_BUF_SIZE];

    g_string_append(text, isfinite(value) ? g_ascii_dtostr(buffer, sizeof buffer, value) : "null");
}

static void append_number(GString *text, const Cell *cell)
{
    if (cell->type == CELL_U64)
        g_string_append_printf(text, "%" PRIu64, (uint64_t)cell->u);
    else if (cell->type == CELL_I64)
        g_string_append_printf(text, "%" PRId64, (int64_t)cell->i);
    else if (cell->type == CELL_BOOL)
        g_string_append(text, cell->b ? "true" : "false");
    else
        append_double(text, cell->d);
}

static void append_json_cell(GString *text, const Cell *cell)
{
    if (cell->type == CELL_NULL) {
        g_string_append(text, "null");
    } else if (cell->type == CELL_STRING) {
        tm_json_append_string(text, (struct tms_str){cell->string, cell->n_bytes});
    } else if (cell->type == CELL_LIST) {
        g_string_append_c(text, '[');
        for (guint i = 0; i < cell->list->len; i++) {
            const char *item = cell->list->pdata[i];
            g_string_append(text, i ? ", " : "");
            tm_json_append_string(text, (struct tms_str){item, strlen(item)});
        }
        g_string_append_c(text, ']');
    } else {
        append_number(text, cell);
    }
}

static void flush(GString *text, FILE *out)
{
    fwrite(text->str, 1, text->len, out);
    g_string_truncate(text, 0);
}

static void write_json_table(const TmTable *table, GString *text, FILE *out)
{
    g_string_append_printf(text, ",\n  \"%s\": [", table->name);
    for (guint i = 0; i + table->n_columns <= table->cells->len; i += table->n_columns) {
        g_string_append(text, i ? ",\n    {" : "\n    {");
        for (guint c = 0; c < table->n_columns; c++) {
            g_string_append_printf(text, "%s\"%s\": ", c ? ", " : "", table->columns[c]);
            append_json_cell(text, &g_array_index(table->cells, Cell, i + c));
        }
        g_string_append_c(text, '}');
        flush(text, out);
    }
    g_string_append(text, table->cells->len ? "\n  ]" : "]");
}

void tm_document_write_json(const TmDocument *document, FILE *out)
{
    g_autoptr(GString) text = g_string_new("{\n  \"schema\": \"" TM_JSON_SCHEMA "\"");

    g_string_append_printf(text, ",\n  \"command\": \"%s\"", document->command);
    for (guint i = 0; i < document->facts->len; i++) {
        const Fact *fact = &g_array_index(document->facts, Fact, i);
        g_string_append_printf(text, ",\n  \"%s\": ", fact->name);
        append_json_cell(text, &fact->cell);
    }
    for (guint i = 0; i < document->tables->len; i++)
        write_json_table(document->tables->pdata[i], text, out);
    g_string_append(text, "\n}\n");
    flush(text, out);
}

/* --- CSV, as RFC 4180 has it but with line feeds only --- */

static void append_csv_string(GString *text, const char *bytes, gsize n_bytes)
{
    gboolean quote = FALSE;

    for (gsize i = 0; i < n_bytes && !quote; i++)
        quote = strchr(",\"\n\r;", bytes[i]) != NULL || bytes[i] == '\0';
    if (!quote) {
        g_string_append_len(text, bytes, (gssize)n_bytes);
        return;
    }
    g_string_append_c(text, '"');
    for (gsize i = 0; i < n_bytes; i++) {
        if (bytes[i] == '"')
            g_string_append_c(text, '"');
        g_string_append_c(text, bytes[i]);
    }
    g_string_append_c(text, '"');
}

static void append_csv_cell(GString *text, const Cell *cell)
{
    if (cell->type == CELL_NULL)
        return;
    if (cell->type == CELL_STRING) {
        append_csv_string(text, cell->string, cell->n_bytes);
    } else if (cell->type == CELL_LIST) {
        g_autoptr(GString) joined = g_string_new(NULL);
        for (guint i = 0; i < cell->list->len; i++)
            g_string_append_printf(joined, "%s%s", i ? ";" : "",
                                   (const char *)cell->list->pdata[i]);
        append_csv_string(text, joined->str, joined->len);
    } else {
        append_number(text, cell);
    }
}

void tm_document_write_csv(const TmDocument *document, FILE *out)
{
    const TmTable *table = document->tables->len ? document->tables->pdata[0] : NULL;
    g_autoptr(GString) text = g_string_new(NULL);

    if (table == NULL)
        return;
    for (guint c = 0; c < table->n_columns; c++)
        g_string_append_printf(text, "%s%s", c ? "," : "", table->columns[c]);
    for (guint i = 0; i < table->cells->len; i++) {
        g_string_append_c(text, i % table->n_columns ? ',' : '\n');
        append_csv_cell(text, &g_array_index(table->cells, Cell, i));
        if (text->len > 65536)
            flush(text, out);
    }
    g_string_append_c(text, '\n');
    flush(text, out);
}
