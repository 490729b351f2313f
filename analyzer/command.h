// SPDX-License-Identifier: MIT
/* The commands of tm-analyze: each is one file, cmd_<name>.c. */
#pragma once

#include "analyzer/error.h"
#include "analyzer/options.h"

typedef struct {
    const char *name;
    unsigned takes;         /* TmTakes */
    const char *parameters; /* for --help */
    const char *summary;
    const GOptionEntry *extra; /* options of its own; NULL: none */
    /* Exit status; TM_EXIT_DATA or TM_EXIT_USAGE go with *error set. */
    TmExit (*run)(const TmOptions *options, GError **error);
} TmCommand;

extern const TmCommand tm_cmd_show; /* the documented command line: no name */
extern const TmCommand tm_cmd_top;
extern const TmCommand tm_cmd_diff;
extern const TmCommand tm_cmd_summary;
extern const TmCommand tm_cmd_traceback;
extern const TmCommand tm_cmd_block;
extern const TmCommand tm_cmd_leaks;
extern const TmCommand tm_cmd_timeline;
extern const TmCommand tm_cmd_merge;
extern const TmCommand tm_cmd_convert;
extern const TmCommand tm_cmd_verify;
extern const TmCommand tm_cmd_extract;

/* Exit status that an error stands for. */
static inline TmExit tm_exit_of(const GError *error)
{
    if (error == NULL)
        return TM_EXIT_OK;
    return error->domain == TM_ANALYZE_ERROR ? (TmExit)error->code : TM_EXIT_DATA;
}
