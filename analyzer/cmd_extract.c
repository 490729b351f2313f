// SPDX-License-Identifier: MIT
/* tm-analyze extract --pid PID | --core FILE: a snapshot that the process itself did not take. */
#include <stdio.h>

#include "analyzer/command.h"
#include "analyzer/output.h"
#include "inspect/extract.h"

static int pid;
static char *core_path, *exe_path, *output_path;

static const GOptionEntry entries[] = {
    {"pid", 'p', 0, G_OPTION_ARG_INT, &pid, "Read the memory of this process", "PID"},
    {"core", 0, 0, G_OPTION_ARG_FILENAME, &core_path, "Read a core file", "FILE"},
    {"exe", 0, 0, G_OPTION_ARG_FILENAME, &exe_path,
     "The program that left the core (default: the one that the core names)", "FILE"},
    {"output", 'o', 0, G_OPTION_ARG_FILENAME, &output_path, "Write to OUT", "OUT"},
    G_OPTION_ENTRY_NULL,
};

static void report(const struct tm_extract_result *result, TmOutput output)
{
    g_autoptr(TmDocument) document = tm_document_new("extract");
    TmWritten written = {.path = output_path,
                         .format = "tms",
                         .size_bytes = result->traced_bytes,
                         .count = result->traces};

    tm_document_string(document, "origin", result->origin);
    tm_document_u64(document, "torn", result->torn);
    tm_output_written(document, &written);
    tm_output_document(document, output);
}

static TmExit run(const TmOptions *options, GError **error)
{
    struct tm_extract_result result;
    g_autoptr(tm_target) target = NULL;

    if (options->files[0] != NULL || (pid > 0) + (core_path != NULL) != 1 || pid < 0) {
        tm_error_usage(error, "extract needs either --pid PID or --core FILE");
        return TM_EXIT_USAGE;
    }
    if (output_path == NULL || (exe_path != NULL && core_path == NULL)) {
        tm_error_usage(error, output_path ? "--exe goes with --core" : "extract needs -o OUT");
        return TM_EXIT_USAGE;
    }
    target = core_path ? tm_target_core(core_path, exe_path, error) : tm_target_live(pid, error);
    if (target == NULL || !tm_extract_to_file(target, output_path, &result, error))
        return TM_EXIT_DATA;
    if (result.torn > 0)
        fprintf(stderr,
                "WARNING: %" G_GUINT64_FORMAT " entries were not complete and are not in %s\n",
                result.torn, output_path);
    if (options->output != TM_OUTPUT_TEXT)
        report(&result, options->output);
    return TM_EXIT_OK;
}

const TmCommand tm_cmd_extract = {
    .name = "extract",
    .takes = TM_TAKES_OUTPUT,
    .parameters = "--pid PID | --core FILE [--exe FILE] -o OUT",
    .summary = "Makes a snapshot from the memory of a process, or from its core file.",
    .extra = entries,
    .run = run,
};
