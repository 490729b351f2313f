// SPDX-License-Identifier: MIT
/* The ids that snapshots share. libc only; one thread. */
#include "analyzer/core/model.h"

#include <stdlib.h>
#include <string.h>

bool tm_model_init(struct tm_model *model)
{
    static const struct tms_str empty = {.bytes = "", .n_bytes = 0};
    static const struct tm_model_site unknown;
    static const struct tm_model_node root = {.parent = TMS_NO_ID, .site = TM_MODEL_NO_SITE};

    memset(model, 0, sizeof *model);
    tm_intern_init_strings(&model->strings);
    tm_intern_init(&model->sites, sizeof(struct tm_model_site));
    tm_intern_init(&model->nodes, sizeof(struct tm_model_node));
    tm_intern_init(&model->lines, sizeof(uint64_t));
    tm_intern_init(&model->functions, sizeof(uint64_t));
    return tm_intern_get(&model->strings, &empty) == TM_MODEL_NO_STRING &&
           tm_intern_get(&model->sites, &unknown) == TM_MODEL_NO_SITE &&
           tm_intern_get(&model->nodes, &root) == TM_MODEL_EMPTY;
}

void tm_model_done(struct tm_model *model)
{
    tm_intern_done(&model->strings);
    tm_intern_done(&model->sites);
    tm_intern_done(&model->nodes);
    tm_intern_done(&model->lines);
    tm_intern_done(&model->functions);
    free(model->line_of_site);
    free(model->function_of_site);
    free(model->is_allocator);
    memset(model, 0, sizeof *model);
}

/* Objects/obmalloc.c, 2.7 to 3.13. */
static bool is_allocator_name(struct tms_str name)
{
    static const char *const families[] = {"PyObject_", "PyMem_Raw", "PyMem_"};
    static const char *const functions[] = {"Malloc", "Calloc", "Realloc"};

    for (int i = 0; i < 3; i++) {
        size_t n = strlen(families[i]);
        if (name.n_bytes <= n || memcmp(name.bytes, families[i], n) != 0)
            continue;
        for (int k = 0; k < 3; k++) {
            if (name.n_bytes - n == strlen(functions[k]) &&
                memcmp(name.bytes + n, functions[k], name.n_bytes - n) == 0)
                return true;
        }
    }
    return false;
}

bool tm_model_key_sites(struct tm_model *model)
{
    uint32_t n = model->sites.count;
    uint8_t *marks;
    uint32_t *ids;

    if (model->n_keyed == n)
        return true;
    ids = realloc(model->line_of_site, (size_t)n * sizeof *ids);
    if (ids == NULL)
        return false;
    model->line_of_site = ids;
    ids = realloc(model->function_of_site, (size_t)n * sizeof *ids);
    if (ids == NULL)
        return false;
    model->function_of_site = ids;
    marks = realloc(model->is_allocator, n);
    if (marks == NULL)
        return false;
    model->is_allocator = marks;
    for (uint32_t i = model->n_keyed; i < n; i++) {
        const struct tm_model_site *site = tm_model_site(model, i);
        uint64_t line = (uint64_t)site->file << 32 | (uint32_t)site->line;
        uint32_t place = site->kind == TMS_SITE_NATIVE ? site->module : site->file;
        uint64_t function = (uint64_t)place << 32 | site->function;

        marks[i] = site->kind == TMS_SITE_NATIVE &&
                   is_allocator_name(tm_model_string(model, site->function));
        model->line_of_site[i] = tm_intern_get(&model->lines, &line);
        model->function_of_site[i] = tm_intern_get(&model->functions, &function);
        if (model->line_of_site[i] == TMS_NO_ID || model->function_of_site[i] == TMS_NO_ID)
            return false;
    }
    model->n_keyed = n;
    return true;
}

static bool map_strings(struct tm_image *image)
{
    const struct tms_file *file = image->file;

    for (uint32_t i = 0; i < file->n_strings; i++) {
        struct tms_str s = tms_file_string(file, i);
        if (s.bytes == NULL)
            s.bytes = "";
        image->string_map[i] = tm_intern_get(&image->model->strings, &s);
        if (image->string_map[i] == TMS_NO_ID)
            return false;
    }
    return true;
}

static uint32_t map_string(const struct tm_image *image, uint32_t id)
{
    return id < image->file->n_strings ? image->string_map[id] : TM_MODEL_NO_STRING;
}

static bool map_sites(struct tm_image *image)
{
    const struct tms_file *file = image->file;

    for (uint32_t i = 0; i < file->n_sites; i++) {
        const struct tms_site *from = &file->sites[i];
        struct tm_model_site site;

        memset(&site, 0, sizeof site); /* Items compare by their bytes. */
        site.file = map_string(image, from->file);
        site.function = map_string(image, from->function);
        site.line = from->line < 1 ? 0 : from->line;
        site.kind = from->kind & 0xff;
        site.address = from->address;
        site.first_line = from->first_line < 1 ? 0 : from->first_line;
        if (site.kind == TMS_SITE_NATIVE && from->module < file->n_modules)
            site.module = map_string(image, file->modules[from->module].path);
        image->site_map[i] = tm_intern_get(&image->model->sites, &site);
        if (image->site_map[i] == TMS_NO_ID)
            return false;
    }
    return true;
}

bool tm_image_init(struct tm_image *image, struct tm_model *model, const struct tms_file *file)
{
    memset(image, 0, sizeof *image);
    image->model = model;
    image->file = file;
    image->string_map = malloc(((size_t)file->n_strings + 1) * sizeof *image->string_map);
    image->site_map = malloc(((size_t)file->n_sites + 1) * sizeof *image->site_map);
    if (image->string_map && image->site_map && map_strings(image) && map_sites(image))
        return true;
    tm_image_done(image);
    return false;
}

void tm_image_done(struct tm_image *image)
{
    free(image->string_map);
    free(image->site_map);
    free(image->outer_start);
    free(image->outer);
    free(image->node_map);
    free(image->keep_node);
    free(image->keep_stat);
    memset(image, 0, sizeof *image);
}

/* The frames that a native frame was inlined into come between it and its caller. */
static bool add_outer(struct tm_image *image, uint32_t site, uint32_t *parent)
{
    if (image->outer_start == NULL || site >= image->file->n_sites)
        return true;
    for (uint32_t k = image->outer_start[site]; k < image->outer_start[site + 1]; k++) {
        struct tm_model_node node = {.parent = *parent, .site = image->outer[k]};
        *parent = tm_intern_get(&image->model->nodes, &node);
        if (*parent == TMS_NO_ID)
            return false;
    }
    return true;
}

bool tm_image_node_is_native(const struct tm_image *image, uint32_t node)
{
    const struct tms_file *file = image->file;
    uint32_t site = node && node < file->n_nodes ? file->nodes[node].site : TMS_NO_ID;

    return site < file->n_sites && (file->sites[site].kind & 0xff) == TMS_SITE_NATIVE;
}

uint32_t tm_image_python_site(const struct tm_image *image, uint32_t node)
{
    const struct tms_file *file = image->file;
    uint32_t at = node;

    while (tm_image_node_is_native(image, at) && file->nodes[at].parent < at)
        at = file->nodes[at].parent;
    if (at == 0)
        at = node; /* native frames only */
    if (at == 0 || file->nodes[at].site >= file->n_sites)
        return TM_MODEL_NO_SITE;
    return image->site_map[file->nodes[at].site];
}

/* Of the functions that are inlined at a native frame the innermost that is no allocator, or
 * TM_MODEL_NO_SITE. */
static uint32_t caller_in_site(const struct tm_image *image, uint32_t site)
{
    const uint8_t *is_allocator = image->model->is_allocator;

    if (!is_allocator[image->site_map[site]])
        return image->site_map[site];
    if (image->outer_start == NULL)
        return TM_MODEL_NO_SITE;
    for (uint32_t k = image->outer_start[site + 1]; k-- > image->outer_start[site];) {
        if (!is_allocator[image->outer[k]])
            return image->outer[k];
    }
    return TM_MODEL_NO_SITE;
}

uint32_t tm_image_calling_site(const struct tm_image *image, uint32_t node)
{
    const struct tms_file *file = image->file;

    for (uint32_t at = node; at != 0 && at < file->n_nodes && file->nodes[at].site < file->n_sites;
         at = file->nodes[at].parent) {
        uint32_t found = caller_in_site(image, file->nodes[at].site);
        if (found != TM_MODEL_NO_SITE)
            return found;
        if (file->nodes[at].parent >= at)
            break;
    }
    /* Allocators only. */
    return node && file->nodes[node].site < file->n_sites ? image->site_map[file->nodes[node].site]
                                                          : TM_MODEL_NO_SITE;
}

bool tm_image_map_nodes(struct tm_image *image)
{
    const struct tms_file *file = image->file;
    uint32_t *map;

    if (image->node_map)
        return true;
    map = malloc(((size_t)file->n_nodes + 1) * sizeof *map);
    if (map == NULL)
        return false;
    map[0] = TM_MODEL_EMPTY;
    for (uint32_t i = 1; i < file->n_nodes; i++) {
        const struct tms_node *from = &file->nodes[i];
        struct tm_model_node node = {
            .parent = from->parent < i ? map[from->parent] : TM_MODEL_EMPTY,
            .site = from->site < file->n_sites ? image->site_map[from->site] : TM_MODEL_NO_SITE,
        };
        map[i] = add_outer(image, from->site, &node.parent)
                     ? tm_intern_get(&image->model->nodes, &node)
                     : TMS_NO_ID;
        if (map[i] == TMS_NO_ID) {
            free(map);
            return false;
        }
    }
    image->node_map = map;
    return true;
}

bool tm_image_has_traces(const struct tm_image *image)
{
    return image->file->n_groups > 0 || tms_file_fact_i64(image->file, "traces", 0) != 0;
}

int64_t tm_image_traceback_limit(const struct tm_image *image)
{
    return tms_file_fact_i64(image->file, "traceback_limit", 1);
}
