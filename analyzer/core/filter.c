// SPDX-License-Identifier: MIT
/* Filters of the API. libc only. */
#include "analyzer/core/filter.h"

#include <stdlib.h>
#include <string.h>

/* Length without the c or o of a trailing .pyc or .pyo. */
static size_t source_length(const char *name, size_t n_bytes)
{
    if (n_bytes >= 4 && memcmp(name + n_bytes - 4, ".py", 3) == 0 &&
        (name[n_bytes - 1] == 'c' || name[n_bytes - 1] == 'o'))
        return n_bytes - 1;
    return n_bytes;
}

enum tm_filter_status tm_filter_init(struct tm_filter *filter, unsigned flags, const char *pattern,
                                     size_t pattern_bytes, int32_t line)
{
    size_t used = 0;
    unsigned n_jokers = 0;
    char *text;

    memset(filter, 0, sizeof *filter);
    pattern_bytes = source_length(pattern, pattern_bytes);
    text = malloc(pattern_bytes + 1);
    if (text == NULL)
        return TM_FILTER_NO_MEMORY;
    for (size_t i = 0; i < pattern_bytes; i++) {
        if (pattern[i] == '*') {
            if (used && text[used - 1] == '*')
                continue;
            n_jokers++;
        }
        text[used++] = pattern[i];
    }
    text[used] = '\0';
    if (n_jokers > TM_FILTER_JOKERS_MAX) {
        free(text);
        return TM_FILTER_TOO_MANY_JOKERS;
    }
    filter->pattern = text;
    filter->pattern_bytes = used;
    filter->line = line < 1 ? 0 : line;
    filter->flags = flags;
    return TM_FILTER_OK;
}

void tm_filter_done(struct tm_filter *filter)
{
    free(filter->pattern);
    memset(filter, 0, sizeof *filter);
}

/* The pieces between jokers are looked for from left to right, each as early as it comes: since a
 * joker matches anything, a later place is never better, and nothing is tried twice. */
static bool pieces_match(const char *pattern, const char *pattern_end, const char *name,
                         const char *name_end)
{
    const char *joker = memchr(pattern, '*', (size_t)(pattern_end - pattern));
    size_t n_bytes;

    if (joker == NULL)
        return pattern_end - pattern == name_end - name &&
               memcmp(pattern, name, (size_t)(name_end - name)) == 0;
    n_bytes = (size_t)(joker - pattern);
    if ((size_t)(name_end - name) < n_bytes || memcmp(pattern, name, n_bytes) != 0)
        return false;
    name += n_bytes;
    for (;;) {
        pattern = joker + 1;
        joker = memchr(pattern, '*', (size_t)(pattern_end - pattern));
        n_bytes = (size_t)((joker ? joker : pattern_end) - pattern);
        if (joker == NULL)
            break;
        name = memmem(name, (size_t)(name_end - name), pattern, n_bytes);
        if (name == NULL)
            return false;
        name += n_bytes;
    }
    return (size_t)(name_end - name) >= n_bytes &&
           memcmp(name_end - n_bytes, pattern, n_bytes) == 0;
}

bool tm_filter_pattern_matches(const struct tm_filter *filter, struct tms_str name)
{
    if (name.bytes == NULL)
        return false;
    return pieces_match(filter->pattern, filter->pattern + filter->pattern_bytes, name.bytes,
                        name.bytes + source_length(name.bytes, name.n_bytes));
}

static bool line_matches(const struct tm_filter *filter, int32_t line)
{
    return filter->line < 1 || filter->line == line;
}

bool tm_filter_keeps(const struct tm_filter *filter, struct tms_str name, int32_t line)
{
    bool matches = line_matches(filter, line) && tm_filter_pattern_matches(filter, name);
    return (filter->flags & TM_FILTER_INCLUDE) ? matches : !matches;
}

/* Which of the file's sites match, as 0 or 1. Each file name is compared once. */
static void match_sites(const struct tm_filter *filter, const struct tm_image *image,
                        uint8_t *string_cache, uint8_t *ret_sites)
{
    const struct tms_file *file = image->file;

    memset(string_cache, 0, (size_t)file->n_strings + 1);
    for (uint32_t i = 0; i < file->n_sites; i++) {
        uint32_t name = file->sites[i].file;
        if (name >= file->n_strings) {
            ret_sites[i] = 0;
            continue;
        }
        if (string_cache[name] == 0)
            string_cache[name] = 1 + tm_filter_pattern_matches(filter, tms_file_string(file, name));
        ret_sites[i] = string_cache[name] == 2 && line_matches(filter, file->sites[i].line);
    }
}

struct verdicts {
    uint8_t *included; /* some include filter matches */
    uint8_t *excluded; /* some exclude filter matches */
};

static void judge_nodes(const struct tm_filter *filter, const struct tms_file *file,
                        const uint8_t *site_matches, uint8_t *node_matches, struct verdicts *ret)
{
    uint8_t *verdict = (filter->flags & TM_FILTER_INCLUDE) ? ret->included : ret->excluded;

    node_matches[0] = 0; /* An empty traceback has no file name. */
    for (uint32_t i = 1; i < file->n_nodes; i++) {
        uint32_t site = file->nodes[i].site;
        uint32_t parent = file->nodes[i].parent;
        node_matches[i] = site < file->n_sites ? site_matches[site] : 0;
        /* What native code takes is its Python caller's, too. */
        if (((filter->flags & TM_FILTER_TRACEBACK) ||
             (site < file->n_sites && (file->sites[site].kind & 0xff) == TMS_SITE_NATIVE)) &&
            parent < i)
            node_matches[i] |= node_matches[parent];
        verdict[i] |= node_matches[i];
    }
}

static void judge_stats(const struct tm_filter *filter, const struct tms_file *file,
                        const uint8_t *site_matches, struct verdicts *ret)
{
    uint8_t *verdict = (filter->flags & TM_FILTER_INCLUDE) ? ret->included : ret->excluded;

    for (uint32_t i = 0; i < file->n_stats; i++) {
        uint32_t site = file->stats[i].site;
        if (site < file->n_sites)
            verdict[i] |= site_matches[site];
    }
}

static void decide(struct verdicts *verdicts, uint32_t n, bool has_includes)
{
    for (uint32_t i = 0; i < n; i++)
        verdicts->included[i] = (!has_includes || verdicts->included[i]) && !verdicts->excluded[i];
}

bool tm_filters_apply(const struct tm_filter *filters, size_t n_filters, struct tm_image *image)
{
    const struct tms_file *file = image->file;
    size_t n_nodes = (size_t)file->n_nodes + 1, n_stats = (size_t)file->n_stats + 1;
    bool has_includes = false;
    struct verdicts nodes, stats;
    uint8_t *strings, *sites, *scratch;

    free(image->keep_node);
    free(image->keep_stat);
    image->keep_node = image->keep_stat = NULL;
    if (n_filters == 0)
        return true;
    nodes = (struct verdicts){calloc(n_nodes, 1), calloc(n_nodes, 1)};
    stats = (struct verdicts){calloc(n_stats, 1), calloc(n_stats, 1)};
    strings = malloc((size_t)file->n_strings + 1);
    sites = malloc((size_t)file->n_sites + 1);
    scratch = malloc(n_nodes);
    if (nodes.included && nodes.excluded && stats.included && stats.excluded && strings && sites &&
        scratch) {
        for (size_t i = 0; i < n_filters; i++) {
            has_includes |= (filters[i].flags & TM_FILTER_INCLUDE) != 0;
            match_sites(&filters[i], image, strings, sites);
            judge_nodes(&filters[i], file, sites, scratch, &nodes);
            judge_stats(&filters[i], file, sites, &stats);
        }
        decide(&nodes, file->n_nodes, has_includes);
        decide(&stats, file->n_stats, has_includes);
        image->keep_node = nodes.included;
        image->keep_stat = stats.included;
        nodes.included = stats.included = NULL;
    }
    free(nodes.included);
    free(nodes.excluded);
    free(stats.included);
    free(stats.excluded);
    free(strings);
    free(sites);
    free(scratch);
    return image->keep_node != NULL;
}
