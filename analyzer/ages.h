// SPDX-License-Identifier: MIT
/* When the blocks of a group were allocated, from the age column of the last snapshot. */
#pragma once

#include <glib.h>

#include "analyzer/session.h"

typedef struct {
    guint64 bytes, count;  /* of the group */
    guint64 before_first;  /* bytes allocated before the session's first snapshot */
    guint64 *bytes_of_age; /* by age, n_ages of them; the last one takes what is above */
    guint n_ages;
} TmAges;

/* Ages of some groups: `ids` ascending, n of them; one TmAges for each, in that order. NULL with
 * *error unset where the snapshot knows no ages. */
TmAges *tm_ages_of(TmSnapshot *snapshot, enum tm_group_by by, const guint64 *ids, guint n,
                   GError **error);
void tm_ages_free(TmAges *ages, guint n);
/* "12 % since snapshot 3": the parts with most bytes first, at most three. */
char *tm_ages_text(const TmAges *ages);
