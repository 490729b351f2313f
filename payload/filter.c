// SPDX-License-Identifier: MIT
#include "payload/filter.h"

#include <errno.h>
#include <sys/mman.h>

#include "format/pattern.h"
#include "payload/intern.h"
#include "payload/mem.h"

struct filter {
    const char *pattern; /* in the block below, normalized */
    size_t n_bytes;
    int32_t line;
    uint32_t flags;
};

/* All filters and their patterns are one mapping. tm_intern_lock; read by interning. */
struct filters {
    size_t mapped_bytes;
    uint32_t count;
    bool has_includes;
    struct filter filter[];
};

static struct filters *filters;

static uint32_t site_flag(const struct filter *filter)
{
    if (filter->flags & TM_FILTERS_TRACEBACK)
        return filter->flags & TM_FILTERS_INCLUDE ? TM_SITE_TRACEBACK_IN : TM_SITE_TRACEBACK_OUT;
    return filter->flags & TM_FILTERS_INCLUDE ? TM_SITE_TOP_IN : TM_SITE_TOP_OUT;
}

static bool site_matches(const struct filter *filter, const struct tm_site *site)
{
    /* A site without a line is 0, as no filter's is: those that ask for a line do not match it. */
    if (site->file == TM_NONE || (filter->line > 0 && filter->line != site->line))
        return false;
    const struct tm_string *name = tm_intern_string_at(site->file);
    return tm_pattern_matches(filter->pattern, filter->n_bytes, (const char *)name->addr,
                              name->n_bytes);
}

uint32_t tm_filter_site_flags(const struct tm_site *site)
{
    uint32_t flags = 0;
    for (uint32_t i = 0; filters != NULL && i < filters->count; i++) {
        uint32_t flag = site_flag(&filters->filter[i]);
        if (!(flags & flag) && site_matches(&filters->filter[i], site))
            flags |= flag;
    }
    return flags;
}

/* All includes are one question, all excludes another: whether any of them matches. So two bits
 * along the path are enough, whatever the number of filters. */
uint16_t tm_filter_node_flags(const struct tm_node *node)
{
    uint16_t flags = 0;
    uint32_t site = 0;
    if (filters == NULL || filters->count == 0)
        return 0;
    if (node->parent != TM_NONE) {
        flags = tm_intern_node_at(node->parent)->flags & (TM_NODE_ANY_IN | TM_NODE_ANY_OUT);
        site = tm_intern_site_at(node->site)->flags;
    }
    if (site & TM_SITE_TRACEBACK_IN)
        flags |= TM_NODE_ANY_IN;
    if (site & TM_SITE_TRACEBACK_OUT)
        flags |= TM_NODE_ANY_OUT;
    bool included = !filters->has_includes || (site & TM_SITE_TOP_IN) || (flags & TM_NODE_ANY_IN);
    if (!included || (site & TM_SITE_TOP_OUT) || (flags & TM_NODE_ANY_OUT))
        flags |= TM_NODE_EXCLUDED;
    return flags;
}

bool tm_filter_any(void)
{
    return filters != NULL && filters->count != 0;
}

void tm_filter_apply_all(void)
{
    const uint32_t all =
        TM_SITE_TOP_IN | TM_SITE_TOP_OUT | TM_SITE_TRACEBACK_IN | TM_SITE_TRACEBACK_OUT;
    pthread_mutex_lock(&tm_intern_lock);
    uint32_t n_sites = tm_vec_count(&tm_state_export.sites);
    uint32_t n_nodes = tm_vec_count(&tm_state_export.nodes);
    for (uint32_t i = 1; i < n_sites; i++) {
        struct tm_site *site = tm_intern_site_at(i);
        site->flags = (site->flags & ~all) | tm_filter_site_flags(site);
    }
    /* Parents come before their children. */
    for (uint32_t i = 0; i < n_nodes; i++)
        tm_intern_node_at(i)->flags = tm_filter_node_flags(tm_intern_node_at(i));
    pthread_mutex_unlock(&tm_intern_lock);
}

/* NULL with *ret_error. */
static struct filters *make(const struct tm_filter_spec *specs, size_t n_specs, int *ret_error)
{
    size_t total = sizeof(struct filters) + n_specs * sizeof(struct filter);
    size_t text_at = total;
    *ret_error = -E2BIG;
    if (n_specs > TM_FILTERS_MAX)
        return NULL;
    for (size_t i = 0; i < n_specs; i++)
        total += specs[i].n_bytes;
    struct filters *made = tm_mem_map_sparse(total);
    *ret_error = -ENOMEM;
    if (made == NULL)
        return NULL;
    int saved_errno = errno;
    madvise(made, total, MADV_DOFORK); /* a child keeps the filters */
    errno = saved_errno;
    made->mapped_bytes = total;
    made->count = (uint32_t)n_specs;
    for (size_t i = 0; i < n_specs; i++) {
        char *pattern = (char *)made + text_at;
        size_t n_bytes = tm_pattern_normalize(specs[i].pattern, specs[i].n_bytes, pattern);
        if (n_bytes == SIZE_MAX) {
            tm_mem_unmap_sparse(made, total);
            *ret_error = -EINVAL;
            return NULL;
        }
        made->filter[i] = (struct filter){pattern, n_bytes, specs[i].line, specs[i].flags};
        made->has_includes |= (specs[i].flags & TM_FILTERS_INCLUDE) != 0;
        text_at += specs[i].n_bytes;
    }
    return made;
}

int tm_filter_replace(const struct tm_filter_spec *specs, size_t n_specs)
{
    struct filters *made = NULL, *old;
    int error;
    if (n_specs != 0 && (made = make(specs, n_specs, &error)) == NULL)
        return error;
    pthread_mutex_lock(&tm_intern_lock);
    old = filters;
    filters = made;
    pthread_mutex_unlock(&tm_intern_lock);
    if (old != NULL)
        tm_mem_unmap_sparse(old, old->mapped_bytes);
    tm_filter_apply_all();
    return 0;
}
