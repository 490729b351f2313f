// SPDX-License-Identifier: MIT
/*
 * What must hold in a .tms file beyond the place of its sections. Pure
 * functions over a mapped file: any thread, any process, no allocation.
 */
#include "format/tms_check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "format/crc32c.h"

void tms_error_set(struct tms_error *error, enum tms_error_code code, uint64_t offset,
                   const char *message, ...)
{
    if (error == NULL) {
        return;
    }
    va_list args;
    error->code = code;
    error->sys_errno = 0;
    error->offset = offset;
    va_start(args, message);
    vsnprintf(error->message, sizeof(error->message), message, args);
    va_end(args);
}

const char *tms_section_name(uint32_t type)
{
    static const char *const names[] = {
        [TMS_FACTS] = "facts",     [TMS_STRINGS] = "strings", [TMS_SITES] = "sites",
        [TMS_NODES] = "nodes",     [TMS_TRACES] = "traces",   [TMS_STATS] = "stats",
        [TMS_METRICS] = "metrics", [TMS_MODULES] = "modules", [TMS_TYPES] = "types",
    };
    if (type == TMS_END) {
        return "end";
    }
    return type > 0 && type < sizeof(names) / sizeof(*names) ? names[type] : "unknown";
}

uint32_t tms_section_crc(uint32_t type, const void *payload, uint64_t payload_bytes)
{
    return tm_crc32c(tm_crc32c(0, &type, sizeof(type)), payload, payload_bytes);
}

static bool corrupt_at(const struct tms_file *file, const void *where, struct tms_error *error,
                       const char *what, uint32_t index, const char *refers, uint32_t id,
                       uint32_t count)
{
    return tms_fail(error, TMS_E_CORRUPT, (uint64_t)((const uint8_t *)where - file->map),
                    "%s %u refers to %s %u, but there are %u", what, index, refers, id, count);
}

static bool id_ok(uint32_t id, uint32_t count)
{
    return id < count || id == TMS_NO_ID;
}

static bool check_sites(const struct tms_file *file, struct tms_error *error)
{
    for (uint32_t i = 0; i < file->n_sites; i++) {
        const struct tms_site *site = &file->sites[i];
        if (!id_ok(site->file, file->n_strings)) {
            return corrupt_at(file, site, error, "site", i, "string", site->file, file->n_strings);
        }
        if (!id_ok(site->function, file->n_strings)) {
            return corrupt_at(file, site, error, "site", i, "string", site->function,
                              file->n_strings);
        }
        if (!id_ok(site->module, file->n_modules)) {
            return corrupt_at(file, site, error, "site", i, "module", site->module,
                              file->n_modules);
        }
        if (site->kind > TMS_SITE_NATIVE) {
            return tms_fail(error, TMS_E_CORRUPT, (uint64_t)((const uint8_t *)site - file->map),
                            "site %u is of the unknown kind %u", i, site->kind);
        }
    }
    return true;
}

static bool check_nodes(const struct tms_file *file, struct tms_error *error)
{
    const struct tms_node *nodes = file->nodes;
    if (file->n_nodes > 0 && (nodes[0].parent != TMS_NO_ID || nodes[0].site != TMS_NO_ID)) {
        return tms_fail(error, TMS_E_CORRUPT, (uint64_t)((const uint8_t *)nodes - file->map),
                        "node 0 is not the empty traceback");
    }
    for (uint32_t i = 1; i < file->n_nodes; i++) {
        if (nodes[i].parent >= i) {
            return tms_fail(
                error, TMS_E_CORRUPT, (uint64_t)((const uint8_t *)&nodes[i] - file->map),
                "node %u has the parent %u, which is not before it", i, nodes[i].parent);
        }
        if (nodes[i].site >= file->n_sites) {
            return corrupt_at(file, &nodes[i], error, "node", i, "site", nodes[i].site,
                              file->n_sites);
        }
    }
    return true;
}

static bool check_stats(const struct tms_file *file, struct tms_error *error)
{
    for (uint32_t i = 0; i < file->n_stats; i++) {
        const struct tms_stat *stat = &file->stats[i];
        if (!id_ok(stat->site, file->n_sites)) {
            return corrupt_at(file, stat, error, "stat", i, "site", stat->site, file->n_sites);
        }
    }
    return true;
}

static bool check_metrics(const struct tms_file *file, struct tms_error *error)
{
    for (uint32_t i = 0; i < file->n_metrics; i++) {
        const struct tms_metric *metric = &file->metrics[i];
        uint64_t offset = (uint64_t)((const uint8_t *)metric - file->map);
        if (metric->name >= file->n_strings) {
            return corrupt_at(file, metric, error, "metric", i, "string", metric->name,
                              file->n_strings);
        }
        if (metric->format > TMS_METRIC_PERCENT) {
            return tms_fail(error, TMS_E_CORRUPT, offset, "metric %u has the unknown format %u", i,
                            metric->format);
        }
        if (metric->format == TMS_METRIC_PERCENT && !__builtin_isfinite(metric->value.f)) {
            return tms_fail(error, TMS_E_CORRUPT, offset, "metric %u is not a finite number", i);
        }
    }
    return true;
}

static bool check_modules(const struct tms_file *file, struct tms_error *error)
{
    for (uint32_t i = 0; i < file->n_modules; i++) {
        const struct tms_module *module = &file->modules[i];
        if (module->start >= module->end) {
            return tms_fail(error, TMS_E_CORRUPT, (uint64_t)((const uint8_t *)module - file->map),
                            "module %u ends before it starts", i);
        }
        if (module->path >= file->n_strings) {
            return corrupt_at(file, module, error, "module", i, "string", module->path,
                              file->n_strings);
        }
        if (!id_ok(module->build_id, file->n_strings)) {
            return corrupt_at(file, module, error, "module", i, "string", module->build_id,
                              file->n_strings);
        }
    }
    return true;
}

static bool check_types(const struct tms_file *file, struct tms_error *error)
{
    for (uint32_t i = 0; i < file->n_types; i++) {
        if (file->types[i] >= file->n_strings) {
            return corrupt_at(file, &file->types[i], error, "type", i, "string", file->types[i],
                              file->n_strings);
        }
    }
    return true;
}

bool tms_check_contents(const struct tms_file *file, struct tms_error *error)
{
    return check_sites(file, error) && check_nodes(file, error) && check_stats(file, error) &&
           check_metrics(file, error) && check_modules(file, error) && check_types(file, error);
}

bool tms_check_group(const struct tms_file *file, const struct tms_traces *head,
                     uint64_t payload_bytes, struct tms_error *error)
{
    uint64_t offset = (uint64_t)((const uint8_t *)head - file->map);
    uint64_t columns_bytes = (uint64_t)head->address_bytes + head->node_bytes + head->size_bytes +
                             head->domain_bytes + head->age_bytes + head->type_bytes +
                             head->thread_bytes;
    if (head->count == 0 || head->count > TMS_GROUP_MAX) {
        return tms_fail(error, TMS_E_CORRUPT, offset, "a group claims %u traces", head->count);
    }
    if ((head->flags & ~(uint32_t)TMS_TRACES_WIDE) != 0) {
        return tms_fail(error, TMS_E_CORRUPT, offset, "a group has the unknown flags %#x",
                        head->flags);
    }
    if (head->granule_shift > TMS_GRANULE_SHIFT_MAX) {
        return tms_fail(error, TMS_E_CORRUPT, offset, "a group's granule is 1 << %u bytes",
                        head->granule_shift);
    }
    if (columns_bytes != payload_bytes - sizeof(*head)) {
        return tms_fail(error, TMS_E_CORRUPT, offset,
                        "a group's columns take %llu bytes, but its section has %llu",
                        (unsigned long long)columns_bytes,
                        (unsigned long long)(payload_bytes - sizeof(*head)));
    }
    if ((head->flags & TMS_TRACES_WIDE) && head->size_bytes != head->count * 8) {
        return tms_fail(error, TMS_E_CORRUPT, offset, "a group's column of sizes has %u bytes",
                        head->size_bytes);
    }
    if (head->domain_bytes != 0 && head->domain_bytes != head->count) {
        return tms_fail(error, TMS_E_CORRUPT, offset, "a group's column of domains has %u bytes",
                        head->domain_bytes);
    }
    if (head->domain > TMS_DOMAIN_OBJ) {
        return tms_fail(error, TMS_E_CORRUPT, offset, "a group has the unknown domain %u",
                        head->domain);
    }
    return true;
}
