// SPDX-License-Identifier: MIT
/* Single memory blocks. */
#include "analyzer/blocks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "analyzer/core/scan.h"
#include "analyzer/core/size.h"
#include "analyzer/document.h"
#include "analyzer/error.h"
#include "analyzer/output.h"
#include "analyzer/render.h"
#include "analyzer/source.h"
#include "analyzer/text.h"

typedef struct {
    guint64 address, size_bytes;
    guint32 node; /* of the file */
    guint32 domain, age, type, thread;
} Block;

/* What one worker has found; `blocks` is a heap with the smallest at 0 once it is full. */
typedef struct {
    const struct tm_image *image;
    guint64 address; /* in the only one wanted; 0: the biggest ones */
    guint limit;
    GArray *blocks;
    guint64 all_bytes, all_count;
} Finder;

#define BLOCK_COLUMNS                                                                              \
    (TM_SCAN_ADDRESS | TM_SCAN_NODE | TM_SCAN_SIZE | TM_SCAN_DOMAIN | TM_SCAN_AGE | TM_SCAN_TYPE | \
     TM_SCAN_THREAD)

/* Descending by size, then by address, so that the result does not depend on the threads. */
static int compare_blocks(const void *a, const void *b)
{
    const Block *x = a, *y = b;

    if (x->size_bytes != y->size_bytes)
        return x->size_bytes < y->size_bytes ? 1 : -1;
    return (x->address < y->address) - (x->address > y->address);
}

static void sift_down(GArray *heap, guint at)
{
    Block *blocks = (Block *)(void *)heap->data;

    for (;;) {
        guint last = at;
        Block swap;
        for (guint child = 2 * at + 1; child <= 2 * at + 2 && child < heap->len; child++) {
            if (compare_blocks(&blocks[child], &blocks[last]) > 0)
                last = child;
        }
        if (last == at)
            return;
        swap = blocks[at];
        blocks[at] = blocks[last];
        blocks[last] = swap;
        at = last;
    }
}

static void offer(Finder *finder, const Block *block)
{
    GArray *heap = finder->blocks;

    if (heap->len < finder->limit) {
        g_array_append_val(heap, *block);
        for (guint i = heap->len / 2; heap->len == finder->limit && i-- > 0;)
            sift_down(heap, i);
    } else if (heap->len && compare_blocks(block, &g_array_index(heap, Block, 0)) < 0) {
        g_array_index(heap, Block, 0) = *block;
        sift_down(heap, 0);
    }
}

static bool find_rows(void *state, const struct tm_batch *batch)
{
    Finder *finder = state;
    const struct tm_columns_view *column = &batch->column;

    for (guint32 i = 0; i < batch->count; i++) {
        Block block;
        if (finder->image->keep_node && !finder->image->keep_node[column->node[i]])
            continue;
        finder->all_bytes += column->size_bytes[i];
        finder->all_count++;
        /* Any pointer into the block will do, as a debugger comes by them. */
        if (finder->address &&
            finder->address - column->address[i] >= MAX(column->size_bytes[i], 1))
            continue;
        block =
            (Block){column->address[i], column->size_bytes[i], column->node[i],  column->domain[i],
                    column->age[i],     column->type[i],       column->thread[i]};
        offer(finder, &block);
    }
    return true;
}

/* Fills `ret`, whose image, address and limit are set; its blocks are sorted then. */
static gboolean find_blocks(const TmSnapshot *snapshot, Finder *ret, GError **error)
{
    Finder finders[TM_SCAN_THREADS_MAX];
    void *states[TM_SCAN_THREADS_MAX];
    unsigned n_states = tm_scan_threads(&snapshot->file);
    struct tms_error reason = {0};
    gboolean ok;

    for (unsigned i = 0; i < n_states; i++) {
        finders[i] = *ret;
        finders[i].blocks = g_array_new(FALSE, FALSE, sizeof(Block));
        states[i] = &finders[i];
    }
    ok = tm_scan(&snapshot->file, BLOCK_COLUMNS, find_rows, states, n_states, &reason);
    ret->blocks = g_array_new(FALSE, FALSE, sizeof(Block));
    for (unsigned i = 0; i < n_states; i++) {
        for (guint b = 0; b < finders[i].blocks->len; b++)
            offer(ret, &g_array_index(finders[i].blocks, Block, b));
        ret->all_bytes += finders[i].all_bytes;
        ret->all_count += finders[i].all_count;
        g_array_unref(finders[i].blocks);
    }
    g_array_sort(ret->blocks, compare_blocks);
    if (!ok) {
        tm_error_set_from_reader(error, &reason);
        g_prefix_error(error, "Failed to load %s: ", snapshot->path);
    }
    return ok;
}

/* --- text --- */

static void append_frame(GString *out, const struct tm_model *model, guint32 id, TmSource *source)
{
    const struct tm_model_site *site = tm_model_site(model, id);
    struct tms_str file = tm_model_string(model, site->file);
    const char *text = tm_source_line(source, file, site->line);

    g_string_append(out, "  File \"");
    if (site->kind == TMS_SITE_NATIVE && site->file == TM_MODEL_NO_STRING && site->address)
        g_string_append_printf(out, "0x%" PRIx64, site->address);
    else
        tm_text_append_filename(out, FALSE, file, G_MAXINT);
    if (site->line > 0)
        g_string_append_printf(out, "\", line %d", site->line);
    else
        g_string_append(out, "\", line ?");
    if (site->kind == TMS_SITE_NATIVE && site->function != TM_MODEL_NO_STRING) {
        g_string_append(out, ", in ");
        tm_text_append_safe(out, tm_model_string(model, site->function));
    }
    g_string_append_c(out, '\n');
    /* Sources of native code are seldom at hand: nothing to complain about. */
    if (text || site->kind != TMS_SITE_NATIVE)
        g_string_append_printf(out, "    %s\n", text ? text : "(not found)");
}

void tm_blocks_append_traceback(GString *out, const struct tm_model *model, guint32 node,
                                TmSource *source)
{
    g_string_append(out, "Traceback (most recent call first):\n");
    for (; node != TM_MODEL_EMPTY; node = tm_model_node(model, node)->parent)
        append_frame(out, model, tm_model_node(model, node)->site, source);
}

static void append_block(GString *out, const TmSnapshot *snapshot, const Block *block,
                         const TmOptions *options, TmSource *source)
{
    g_autofree char *address = g_strdup_printf("0x%" PRIx64, block->address);
    char size[TM_SIZE_TEXT];

    g_string_append(out, "memory block ");
    tm_text_append_styled(out, options->color, TM_STYLE_BOLD, address);
    g_string_append(out, ": ");
    tm_text_append_styled(out, options->color, TM_STYLE_YELLOW,
                          tm_size_format((gint64)block->size_bytes, TM_SIZE_PLAIN, size));
    g_string_append_c(out, '\n');
    tm_blocks_append_traceback(out, snapshot->image.model, snapshot->image.node_map[block->node],
                               source);
}

static void append_biggest(GString *out, const TmSnapshot *snapshot, const Finder *found,
                           const TmOptions *options, TmSource *source)
{
    g_autofree char *timestamp = tm_text_timestamp(snapshot->file.timestamp_ns);
    guint64 more_bytes = found->all_bytes, more_count = found->all_count - found->blocks->len;
    char size[TM_SIZE_TEXT];

    tm_text_append_styled(out, options->color, TM_STYLE_BOLD, timestamp);
    g_string_append_printf(out, ": Traceback of the top %u biggest memory blocks\n\n",
                           found->blocks->len);
    for (guint i = 0; i < found->blocks->len; i++) {
        const Block *block = &g_array_index(found->blocks, Block, i);
        g_string_append_printf(out, "#%u: ", i + 1);
        append_block(out, snapshot, block, options, source);
        g_string_append_c(out, '\n');
        more_bytes -= block->size_bytes;
    }
    if (more_count)
        g_string_append_printf(out, "%" PRIu64 " more memory blocks: size=%s\n\n", more_count,
                               tm_size_format((gint64)more_bytes, TM_SIZE_PLAIN, size));
}

/* --- tables --- */

static void add_block(TmTable *table, guint index, const TmSnapshot *snapshot, const Block *block)
{
    static const char *const domains[] = {"raw", "mem", "obj"};
    const struct tms_file *file = &snapshot->file;
    g_autofree char *address = g_strdup_printf("0x%" PRIx64, block->address);

    tm_table_u64(table, index);
    tm_table_string(table, address);
    tm_table_u64(table, block->size_bytes);
    tm_table_string(table, block->domain < 3 ? domains[block->domain] : NULL);
    tm_table_u64(table, block->age);
    if (block->type && block->type <= file->n_types)
        tm_table_str(table, tms_file_string(file, file->types[block->type - 1]));
    else
        tm_table_null(table);
    if (block->thread)
        tm_table_u64(table, block->thread);
    else
        tm_table_null(table);
    tm_table_list(table,
                  tm_render_frames(snapshot->image.model, snapshot->image.node_map[block->node]));
}

static TmTable *add_table(TmDocument *document)
{
    return tm_document_table(document, "blocks",
                             "snapshot address size domain age type thread traceback");
}

typedef struct {
    TmSession *session;
    const TmOptions *options;
    guint64 address; /* 0: the biggest blocks */
    TmSource *source;
    TmTable *table;
    GString *text;
    guint n_found;
} Show;

static void append_one(Show *show, const TmSnapshot *snapshot, const Finder *found)
{
    g_autofree char *timestamp = tm_text_timestamp(snapshot->file.timestamp_ns);

    tm_text_append_styled(show->text, show->options->color, TM_STYLE_BOLD, timestamp);
    g_string_append(show->text, ", ");
    if (found->blocks->len)
        append_block(show->text, snapshot, &g_array_index(found->blocks, Block, 0), show->options,
                     show->source);
    else
        g_string_append_printf(show->text, "memory block 0x%" PRIx64 ": (not found)\n",
                               show->address);
}

static gboolean show_snapshot(Show *show, guint index, GError **error)
{
    TmSnapshot *snapshot = tm_session_get(show->session, index);
    Finder found = {.image = &snapshot->image,
                    .address = show->address,
                    .limit = show->address ? 1 : (guint)show->options->number};
    gboolean ok = find_blocks(snapshot, &found, error);

    if (ok && !tm_image_map_nodes(&snapshot->image))
        ok = tm_error_data(error, "not enough memory");
    if (ok && show->options->output != TM_OUTPUT_TEXT) {
        for (guint b = 0; b < found.blocks->len; b++)
            add_block(show->table, index, snapshot, &g_array_index(found.blocks, Block, b));
    } else if (ok && show->address) {
        append_one(show, snapshot, &found);
    } else if (ok) {
        append_biggest(show->text, snapshot, &found, show->options, show->source);
    }
    show->n_found += found.blocks->len;
    g_array_unref(found.blocks);
    return ok;
}

static gboolean show_blocks(TmSession *session, const char *command, const TmOptions *options,
                            guint64 address, GError **error)
{
    g_autoptr(TmSource) source = tm_source_new(options->source_root);
    g_autoptr(TmDocument) document = tm_document_new(command);
    g_autoptr(GString) text = g_string_new(NULL);
    Show show = {session, options, address, source, add_table(document), text, 0};

    for (guint i = 0; i < session->snapshots->len; i++) {
        if (!show_snapshot(&show, i, error))
            return FALSE;
    }
    if (address && show.n_found == 0)
        return tm_error_data(error, "The snapshot %s has no memory block at 0x%" PRIx64,
                             tm_session_get(session, 0)->path, address);
    if (options->output != TM_OUTPUT_TEXT)
        tm_output_document(document, options->output);
    fwrite(text->str, 1, text->len, stdout);
    return TRUE;
}

gboolean tm_blocks_show_one(TmSession *session, const char *command, const TmOptions *options,
                            GError **error)
{
    return show_blocks(session, command, options, options->block_address, error);
}

gboolean tm_blocks_show_biggest(TmSession *session, const char *command, const TmOptions *options,
                                GError **error)
{
    return show_blocks(session, command, options, 0, error);
}
