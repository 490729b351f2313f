// SPDX-License-Identifier: MIT
/* Comparing groupings by one merge; the largest differences by a bounded heap. libc only. */
#include "analyzer/core/compare.h"

#include <stdlib.h>
#include <string.h>

struct selection {
    const struct tm_model *model;
    enum tm_group_by by;
    struct tm_change *rows; /* a heap with the least interesting one at 0, once it is full */
    size_t n_rows, capacity, limit;
};

static uint64_t magnitude(int64_t value)
{
    return value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
}

/* Whether a comes before b in the list. */
static bool before(const struct selection *s, const struct tm_change *a, const struct tm_change *b)
{
    if (magnitude(a->size_diff) != magnitude(b->size_diff))
        return magnitude(a->size_diff) > magnitude(b->size_diff);
    if (a->size != b->size)
        return a->size > b->size;
    if (magnitude(a->count_diff) != magnitude(b->count_diff))
        return magnitude(a->count_diff) > magnitude(b->count_diff);
    if (a->count != b->count)
        return a->count > b->count;
    return tm_group_compare_ids(s->model, s->by, a->id, b->id) > 0;
}

static void sift_down(struct selection *s, size_t at, size_t n)
{
    for (;;) {
        size_t worst = at, child = at * 2 + 1;
        struct tm_change swap;

        if (child < n && before(s, &s->rows[worst], &s->rows[child]))
            worst = child;
        if (child + 1 < n && before(s, &s->rows[worst], &s->rows[child + 1]))
            worst = child + 1;
        if (worst == at)
            return;
        swap = s->rows[at];
        s->rows[at] = s->rows[worst];
        s->rows[worst] = swap;
        at = worst;
    }
}

static void heapify(struct selection *s)
{
    for (size_t i = s->n_rows / 2; i-- > 0;)
        sift_down(s, i, s->n_rows);
}

static bool offer(struct selection *s, const struct tm_change *row)
{
    if (s->n_rows == s->limit) {
        if (s->limit && before(s, row, &s->rows[0])) {
            s->rows[0] = *row;
            sift_down(s, 0, s->n_rows);
        }
        return true;
    }
    if (s->n_rows == s->capacity) {
        size_t capacity = s->capacity ? s->capacity * 2 : 64;
        struct tm_change *rows = realloc(s->rows, capacity * sizeof *rows);
        if (rows == NULL)
            return false;
        s->rows = rows;
        s->capacity = capacity;
    }
    s->rows[s->n_rows++] = *row;
    if (s->n_rows == s->limit)
        heapify(s);
    return true;
}

/* The worst goes to the end, again and again: the best is first then. */
static void sort_rows(struct selection *s)
{
    heapify(s);
    for (size_t n = s->n_rows; n > 1; n--) {
        struct tm_change swap = s->rows[0];
        s->rows[0] = s->rows[n - 1];
        s->rows[n - 1] = swap;
        sift_down(s, 0, n - 1);
    }
}

static struct tm_change make_row(const struct tm_group *old, const struct tm_group *new,
                                 bool has_old)
{
    struct tm_change row = {.id = new ? new->id : old->id};

    if (new) {
        row.size = new->bytes;
        row.count = new->count;
    }
    if (has_old) {
        row.size_diff = (int64_t)(row.size - (old ? old->bytes : 0));
        row.count_diff = (int64_t)(row.count - (old ? old->count : 0));
    }
    return row;
}

/* Sums of changes wrap rather than trap: only absurd cumulative sums get there. */
static void add_row(struct tm_change *to, const struct tm_change *row, int sign)
{
    uint64_t factor = sign < 0 ? ~UINT64_C(0) : 1;

    to->size += factor * row->size;
    to->count += factor * row->count;
    to->size_diff = (int64_t)((uint64_t)to->size_diff + factor * (uint64_t)row->size_diff);
    to->count_diff = (int64_t)((uint64_t)to->count_diff + factor * (uint64_t)row->count_diff);
}

static bool merge(struct selection *s, const struct tm_groups *old, const struct tm_groups *new,
                  struct tm_diff *ret)
{
    const struct tm_group *o = old ? old->items : NULL, *n = new->items;
    const struct tm_group *o_end = old ? o + old->n_items : NULL, *n_end = n + new->n_items;

    while (o < o_end || n < n_end) {
        bool take_old = o < o_end && (n == n_end || o->id <= n->id);
        bool take_new = n < n_end && (o == o_end || n->id <= o->id);
        struct tm_change row = make_row(take_old ? o : NULL, take_new ? n : NULL, old != NULL);

        o += take_old;
        n += take_new;
        ret->n_groups++;
        add_row(&ret->total, &row, 1);
        if (!offer(s, &row))
            return false;
    }
    return true;
}

bool tm_diff_make(const struct tm_model *model, const struct tm_groups *old,
                  const struct tm_groups *new, size_t limit, struct tm_diff *ret)
{
    struct selection s = {.model = model, .by = new->by, .limit = limit};
    struct tm_diff diff = {.has_old = old != NULL};

    if (!merge(&s, old, new, &diff)) {
        free(s.rows);
        return false;
    }
    sort_rows(&s);
    diff.rows = s.rows;
    diff.n_rows = s.n_rows;
    diff.rest = diff.total;
    for (size_t i = 0; i < s.n_rows; i++)
        add_row(&diff.rest, &s.rows[i], -1);
    *ret = diff;
    return true;
}

void tm_diff_done(struct tm_diff *diff)
{
    free(diff->rows);
    memset(diff, 0, sizeof *diff);
}
