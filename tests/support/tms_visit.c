// SPDX-License-Identifier: MIT
#include "tests/support/tms_visit.h"

#include <string.h>

#include "format/crc32c.h"

struct scratch {
    uint64_t address[TMS_GROUP_MAX];
    uint64_t size_bytes[TMS_GROUP_MAX];
    uint32_t node[TMS_GROUP_MAX];
    uint32_t age[TMS_GROUP_MAX];
    uint32_t type[TMS_GROUP_MAX];
    uint32_t thread[TMS_GROUP_MAX];
    uint8_t domain[TMS_GROUP_MAX];
};

static void add(uint32_t *digest, const void *data, size_t n_bytes)
{
    /* The length as well, so that bytes cannot move from one object to the next unseen. */
    uint64_t length = n_bytes;
    *digest = tm_crc32c(*digest, &length, sizeof(length));
    *digest = tm_crc32c(*digest, data, n_bytes);
}

static void visit_string(const struct tms_file *file, uint32_t id, uint32_t *digest)
{
    struct tms_str string = tms_file_string(file, id);
    add(digest, string.bytes, string.n_bytes);
}

/* Follows every id as the analyzer would. */
static void visit_ids(const struct tms_file *file, uint32_t *digest)
{
    for (uint32_t i = 0; i < file->n_sites; i++) {
        visit_string(file, file->sites[i].file, digest);
        visit_string(file, file->sites[i].function, digest);
        if (file->sites[i].module != TMS_NO_ID) {
            visit_string(file, file->modules[file->sites[i].module].path, digest);
        }
    }
    for (uint32_t i = 1; i < file->n_nodes; i++) {
        add(digest, &file->nodes[file->nodes[i].parent], sizeof(struct tms_node));
        add(digest, &file->sites[file->nodes[i].site], sizeof(struct tms_site));
    }
    for (uint32_t i = 0; i < file->n_stats; i++) {
        if (file->stats[i].site != TMS_NO_ID) {
            add(digest, &file->sites[file->stats[i].site], sizeof(struct tms_site));
        }
    }
    for (uint32_t i = 0; i < file->n_metrics; i++) {
        visit_string(file, file->metrics[i].name, digest);
    }
    for (uint32_t i = 0; i < file->n_modules; i++) {
        visit_string(file, file->modules[i].path, digest);
        visit_string(file, file->modules[i].build_id, digest);
    }
    for (uint32_t i = 0; i < file->n_types; i++) {
        visit_string(file, file->types[i], digest);
    }
}

static void visit_sections(const struct tms_file *file, uint32_t *digest)
{
    add(digest, &file->timestamp_ns, sizeof(file->timestamp_ns));
    add(digest, file->facts, file->facts_bytes);
    int64_t pid = tms_file_fact_i64(file, "pid", -1);
    add(digest, &pid, sizeof(pid));
    add(digest, &file->n_strings, sizeof(file->n_strings));
    for (uint32_t i = 0; i < file->n_strings; i++) {
        visit_string(file, i, digest);
    }
    add(digest, file->sites, file->n_sites * sizeof(*file->sites));
    add(digest, file->nodes, file->n_nodes * sizeof(*file->nodes));
    add(digest, file->stats, file->n_stats * sizeof(*file->stats));
    add(digest, file->metrics, file->n_metrics * sizeof(*file->metrics));
    add(digest, file->modules, file->n_modules * sizeof(*file->modules));
    add(digest, file->types, file->n_types * sizeof(*file->types));
    add(digest, &file->end, sizeof(file->end));
}

static bool visit_group(const struct tms_file *file, uint32_t group, struct scratch *s,
                        uint32_t *digest, struct tms_error *error)
{
    struct tms_columns columns = {
        .address = s->address,
        .node = s->node,
        .size_bytes = s->size_bytes,
        .domain = s->domain,
        .age = s->age,
        .type = s->type,
        .thread = s->thread,
    };
    uint32_t n = file->groups[group].head->count;
    if (!tms_group_decode(file, group, &(struct tms_columns){0}, error) ||
        !tms_group_decode(file, group, &columns, error)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        add(digest, &file->nodes[s->node[i]], sizeof(struct tms_node));
        if (s->type[i] != 0) {
            visit_string(file, file->types[s->type[i] - 1], digest);
        }
    }
    add(digest, s->address, n * sizeof(*s->address));
    add(digest, s->size_bytes, n * sizeof(*s->size_bytes));
    add(digest, s->node, n * sizeof(*s->node));
    add(digest, s->domain, n * sizeof(*s->domain));
    add(digest, s->age, n * sizeof(*s->age));
    add(digest, s->type, n * sizeof(*s->type));
    add(digest, s->thread, n * sizeof(*s->thread));
    return true;
}

bool tms_visit(const struct tms_file *file, uint32_t *ret_digest, struct tms_error *error)
{
    uint32_t digest = 0;
    static struct scratch scratch; /* not on the heap: the fuzzer would do little else */
    visit_sections(file, &digest);
    visit_ids(file, &digest);
    bool ok = true;
    for (uint32_t i = 0; i < file->n_groups && ok; i++) {
        ok = visit_group(file, i, &scratch, &digest, error);
    }
    *ret_digest = digest;
    return ok;
}
