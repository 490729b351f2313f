// SPDX-License-Identifier: MIT
/* Options that several commands share, and their parsing. */
#pragma once

#include <glib.h>

#include "analyzer/core/filter.h"
#include "analyzer/core/grouping.h"

typedef enum { TM_OUTPUT_TEXT = 0, TM_OUTPUT_JSON, TM_OUTPUT_CSV } TmOutput;

typedef struct {
    char **files; /* what is not an option; never NULL after parsing */

    enum tm_group_by by;
    gboolean cumulative;
    int number;
    gboolean first; /* compare with the first snapshot, not with the previous one */

    GArray *filters; /* of struct tm_filter */

    gboolean hide_size, hide_count, hide_average, hide_metrics;
    int filename_parts;
    gboolean color;
    char *source_root;
    TmOutput output;

    guint64 fail_over_bytes;
    gboolean has_fail_over;

    gboolean traceback; /* -t of the documented command line */
    gboolean has_block;
    guint64 block_address; /* -b */
} TmOptions;

typedef enum {
    TM_TAKES_GROUPING = 1u << 0, /* -a -f -c --group-by -n */
    TM_TAKES_FILTERS = 1u << 1,  /* -i -I -x -X */
    TM_TAKES_DISPLAY = 1u << 2,  /* -S -C -A -M -P --color --no-color */
    TM_TAKES_FIRST = 1u << 3,
    TM_TAKES_FAIL_OVER = 1u << 4,
    TM_TAKES_OUTPUT = 1u << 5, /* --json --csv */
    TM_TAKES_BLOCKS = 1u << 6, /* -b -t */
    TM_TAKES_SOURCE = 1u << 7, /* --source-root */
    TM_TAKES_NUMBER = 1u << 8, /* -n alone */
} TmTakes;

TmOptions *tm_options_new(void);
void tm_options_free(TmOptions *options);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TmOptions, tm_options_free)

/* Parses argv (argv[0] is the command's name) into `options`. `summary` and `parameters` are for
 * --help, which prints and exits; `extra` are entries of the command's own, or NULL. */
gboolean tm_options_parse(TmOptions *options, unsigned takes, const char *parameters,
                          const char *summary, const GOptionEntry *extra, int argc, char **argv,
                          GError **error);
/* The help text of the same command line. */
char *tm_options_help(unsigned takes, const char *parameters, const char *summary,
                      const GOptionEntry *extra, const char *program);

/* "0x10", "0b1", "0o7", "017" and decimal; FALSE where it is none or does not fit. */
gboolean tm_parse_address(const char *text, guint64 *ret);
/* "10M", "5 KiB", "1G", "4096": powers of 1024. */
gboolean tm_parse_size(const char *text, guint64 *ret_bytes);
gboolean tm_parse_group_by(const char *text, enum tm_group_by *ret);
const char *tm_group_by_name(enum tm_group_by by);
