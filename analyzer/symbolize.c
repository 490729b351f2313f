// SPDX-License-Identifier: MIT
/* Which addresses of which modules, and where the results go. Modules, and parts of large ones, are
 * worked on by several threads; the model by one. */
#include "analyzer/symbolize.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "analyzer/error.h"
#include "analyzer/symbol_file.h"

TmSymbolSettings tm_symbolize_settings;

/* Below this a part of a module's addresses costs less than to open the file once more
 * (docs/NATIVE.md has the figures). */
enum { MIN_PART = 500 };

typedef struct {
    guint64 address; /* less the load bias */
    GArray *frames;  /* of TmSymbol, innermost first; NULL until found */
} Place;

typedef struct {
    char *path, *build_id;
    guint64 extent_bytes;
    GHashTable *places; /* address -> Place * */
    GPtrArray *sorted;  /* the same Places, by address: neighbours share compilation units */
    char *problem;      /* NULL: none */
    guint lacks;        /* of TmSymbolLacks */
} Module;

/* Places [first, end) of a module: the work of one thread. */
typedef struct {
    Module *module;
    guint first, end;
} Part;

struct TmSymbols {
    GHashTable *modules; /* "path\nbuild-id" or "path\n\nextent" -> Module * */
    GStringChunk *text;  /* strings that the model borrows */
};

static void free_place(void *data)
{
    Place *place = data;

    g_clear_pointer(&place->frames, g_array_unref);
    g_free(place);
}

static void free_module(void *data)
{
    Module *module = data;

    g_ptr_array_unref(module->sorted);
    g_hash_table_unref(module->places);
    g_free(module->path);
    g_free(module->build_id);
    g_free(module->problem);
    g_free(module);
}

void tm_symbolize_free(TmSymbols *symbols)
{
    if (symbols == NULL)
        return;
    g_hash_table_unref(symbols->modules);
    g_string_chunk_free(symbols->text);
    g_free(symbols);
}

/* --- what is asked --- */

static gboolean is_address(const struct tms_file *file, const struct tms_site *site)
{
    return (site->kind & 0xff) == TMS_SITE_NATIVE && site->address != 0 &&
           site->module < file->n_modules;
}

/* A return address lies behind its call; the call is what is meant. */
static guint64 place_of(const struct tms_file *file, const struct tms_site *site)
{
    return site->address - 1 - file->modules[site->module].bias;
}

static char *dup_string(const struct tms_file *file, guint32 id)
{
    struct tms_str text = tms_file_string(file, id);
    return g_strndup(text.bytes ? text.bytes : "", text.n_bytes);
}

static Module *get_module(TmSymbols *symbols, const struct tms_file *file, guint32 index)
{
    const struct tms_module *from = &file->modules[index];
    g_autofree char *path = dup_string(file, from->path);
    g_autofree char *build_id =
        from->build_id == TMS_NO_ID ? NULL : dup_string(file, from->build_id);
    g_autofree char *key = build_id
                               ? g_strdup_printf("%s\n%s", path, build_id)
                               : g_strdup_printf("%s\n\n%" PRIu64, path, from->end - from->start);
    Module *module = g_hash_table_lookup(symbols->modules, key);

    if (module)
        return module;
    module = g_new0(Module, 1);
    module->path = g_steal_pointer(&path);
    module->build_id = g_steal_pointer(&build_id);
    module->extent_bytes = from->end - from->start;
    module->sorted = g_ptr_array_new();
    module->places = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, free_place);
    g_hash_table_insert(symbols->modules, g_steal_pointer(&key), module);
    return module;
}

static void collect(TmSymbols *symbols, const struct tms_file *file)
{
    g_autofree Module **modules = g_new0(Module *, file->n_modules + 1);

    for (guint32 i = 0; i < file->n_sites; i++) {
        const struct tms_site *site = &file->sites[i];
        guint64 address;

        if (!is_address(file, site))
            continue;
        if (modules[site->module] == NULL)
            modules[site->module] = get_module(symbols, file, site->module);
        address = place_of(file, site);
        if (!g_hash_table_contains(modules[site->module]->places, &address)) {
            Place *place = g_new0(Place, 1);
            place->address = address;
            g_hash_table_insert(modules[site->module]->places, &place->address, place);
            g_ptr_array_add(modules[site->module]->sorted, place);
        }
    }
}

/* --- answers --- */

static int compare_places(const void *a, const void *b)
{
    const Place *x = *(Place *const *)a, *y = *(Place *const *)b;

    return (x->address > y->address) - (x->address < y->address);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* By path, so that what is said is said in the same order in every run. */
static GPtrArray *list_modules(const TmSymbols *symbols)
{
    GPtrArray *list = g_ptr_array_new();
    guint n = 0;
    g_autofree void **keys = g_hash_table_get_keys_as_array(symbols->modules, &n);

    qsort(keys, n, sizeof *keys, compare_keys);
    for (guint i = 0; i < n; i++)
        g_ptr_array_add(list, g_hash_table_lookup(symbols->modules, keys[i]));
    return list;
}

static void resolve_part(void *data, void *opened)
{
    Part *part = data;
    Module *module = part->module;
    TmSymbolRequest request = {module->path, module->build_id, module->extent_bytes,
                               tm_symbolize_settings.debug_dirs};
    g_autoptr(GError) error = NULL;
    TmSymbolFile *file = tm_symbol_file_open(&request, &error);

    if (part->first == 0) { /* speaks for the module */
        if (file == NULL)
            module->problem = g_strdup(error->message);
        g_async_queue_push(opened, module);
    }
    for (guint i = part->first; file && i < part->end; i++) {
        Place *place = module->sorted->pdata[i];
        place->frames = tm_symbol_file_find(file, place->address);
    }
    if (file)
        g_atomic_int_or(&module->lacks, tm_symbol_file_get_lacks(file));
    tm_symbol_file_free(file);
    g_free(part);
}

static guint count_parts(const Module *module)
{
    guint most = module->sorted->len / MIN_PART;

    return CLAMP(g_get_num_processors(), 1, MAX(most, 1));
}

static void push_part(GThreadPool *pool, Module *module, guint i)
{
    guint64 n = module->sorted->len, n_parts = count_parts(module);
    Part *part = g_new(Part, 1);

    *part = (Part){module, (guint)(n * i / n_parts), (guint)(n * (i + 1) / n_parts)};
    g_thread_pool_push(pool, part, NULL);
}

static gboolean is_vdso(const Module *module)
{
    return strncmp(module->path, "linux-", 6) == 0; /* no file: linux-vdso.so.1 */
}

static void resolve_all(TmSymbols *symbols)
{
    g_autoptr(GPtrArray) modules = list_modules(symbols);
    GAsyncQueue *opened = g_async_queue_new();
    GThreadPool *pool =
        g_thread_pool_new(resolve_part, opened, (int)g_get_num_processors(), FALSE, NULL);
    guint n_waited = 0;

    if (!tm_symbolize_settings.debuginfod)
        g_unsetenv("DEBUGINFOD_URLS"); /* libdwfl asks by itself where this is set */
    for (guint i = 0; i < modules->len; i++) {
        Module *module = modules->pdata[i];
        if (is_vdso(module))
            continue;
        g_ptr_array_sort(module->sorted, compare_places);
        push_part(pool, module, 0);
        n_waited++;
    }
    /* The other parts follow when the first has found the file: it may come from a server, and need
     * not come twice. */
    while (n_waited-- > 0) {
        Module *module = g_async_queue_pop(opened);
        guint n_parts = module->problem ? 1 : count_parts(module);
        for (guint k = 1; k < n_parts; k++)
            push_part(pool, module, k);
    }
    g_thread_pool_free(pool, FALSE, TRUE);
    g_async_queue_unref(opened);
}

static void complain(const TmSymbols *symbols)
{
    g_autoptr(GPtrArray) modules = list_modules(symbols);

    for (guint i = 0; i < modules->len; i++) {
        const Module *module = modules->pdata[i];
        if (module->problem)
            g_printerr("tm-analyze: %s: %s; its native frames are shown as addresses\n",
                       module->path, module->problem);
        if (module->lacks & TM_SYMBOL_LACKS_BUILD_ID)
            g_printerr("tm-analyze: %s: has no build-id; that it is the file that was traced is "
                       "concluded from its size\n",
                       module->path);
        if (module->lacks & TM_SYMBOL_LACKS_SYMBOLS)
            g_printerr("tm-analyze: %s: stripped, and no debug file was found; only exported "
                       "functions have names\n",
                       module->path);
        if (module->lacks & TM_SYMBOL_LACKS_SPLIT)
            g_printerr("tm-analyze: %s: .dwo files that it names were not found; functions inlined "
                       "there are not shown\n",
                       module->path);
    }
}

/* --- into the images --- */

static guint32 add_text(TmSymbols *symbols, struct tm_model *model, const char *text)
{
    struct tms_str str = {g_string_chunk_insert_const(symbols->text, text), strlen(text)};
    guint32 id = tm_intern_get(&model->strings, &str);

    return id == TMS_NO_ID ? TM_MODEL_NO_STRING : id;
}

/* The address goes: two calls on one line are one place. */
static guint32 add_symbol(TmSymbols *symbols, struct tm_model *model, guint32 module,
                          const TmSymbol *symbol)
{
    struct tm_model_site site;
    guint32 id;

    memset(&site, 0, sizeof site); /* Items compare by their bytes. */
    site.kind = TMS_SITE_NATIVE;
    site.module = module;
    site.function = add_text(symbols, model, symbol->function);
    site.file = symbol->file ? add_text(symbols, model, symbol->file) : module;
    site.line = symbol->file ? symbol->line : 0;
    id = tm_intern_get(&model->sites, &site);
    return id == TMS_NO_ID ? TM_MODEL_NO_SITE : id;
}

/* What nobody knows a name for is shown by its place in the file, the same in every process. */
static guint32 add_unknown(TmSymbols *symbols, struct tm_model *model, guint32 module,
                           const Module *from, guint64 address)
{
    g_autofree char *base = g_path_get_basename(from->path);
    g_autofree char *text = g_strdup_printf("%s+0x%" PRIx64, base, address);
    TmSymbol symbol = {text, NULL, 0};

    return add_symbol(symbols, model, module, &symbol);
}

static void apply_site(TmSymbols *symbols, struct tm_image *image, guint32 i, const Module *module,
                       GArray *outer)
{
    const struct tms_file *file = image->file;
    const struct tms_site *site = &file->sites[i];
    guint64 address = place_of(file, site);
    const Place *place = g_hash_table_lookup(module->places, &address);
    guint32 path = add_text(symbols, image->model, module->path);

    if (place == NULL || place->frames == NULL || place->frames->len == 0) {
        image->site_map[i] = add_unknown(symbols, image->model, path, module, address + 1);
        return;
    }
    for (guint k = place->frames->len; k-- > 0;) {
        guint32 id =
            add_symbol(symbols, image->model, path, &g_array_index(place->frames, TmSymbol, k));
        if (k)
            g_array_append_val(outer, id);
        else
            image->site_map[i] = id;
    }
}

static void apply(TmSymbols *symbols, struct tm_image *image)
{
    g_autoptr(GArray) outer = g_array_new(FALSE, FALSE, sizeof(guint32));
    const struct tms_file *file = image->file;
    g_autofree Module **modules = g_new0(Module *, file->n_modules + 1);
    guint32 n_sites = file->n_sites;
    guint32 *starts = malloc(((gsize)n_sites + 1) * sizeof *starts);

    if (starts == NULL)
        return; /* the frames stay addresses */
    for (guint32 i = 0; i < n_sites; i++) {
        const struct tms_site *site = &file->sites[i];
        starts[i] = outer->len;
        if (!is_address(file, site))
            continue;
        if (modules[site->module] == NULL)
            modules[site->module] = get_module(symbols, file, site->module);
        apply_site(symbols, image, i, modules[site->module], outer);
    }
    starts[n_sites] = outer->len;
    image->outer_start = starts;
    image->outer = malloc(((gsize)outer->len + 1) * sizeof *image->outer);
    if (image->outer == NULL) {
        free(starts);
        image->outer_start = NULL;
        return;
    }
    if (outer->len)
        memcpy(image->outer, outer->data, outer->len * sizeof *image->outer);
}

TmSymbols *tm_symbolize(TmSession *session)
{
    TmSymbols *symbols = g_new0(TmSymbols, 1);

    symbols->modules = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_module);
    symbols->text = g_string_chunk_new(4096);
    for (guint i = 0; i < session->snapshots->len; i++)
        collect(symbols, &tm_session_get(session, i)->file);
    if (g_hash_table_size(symbols->modules) == 0) {
        tm_symbolize_free(symbols);
        return NULL;
    }
    if (!tm_symbolize_settings.off) {
        resolve_all(symbols);
        complain(symbols);
    }
    for (guint i = 0; i < session->snapshots->len; i++)
        apply(symbols, &tm_session_get(session, i)->image);
    return symbols;
}
