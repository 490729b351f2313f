// SPDX-License-Identifier: MIT
/* tm-analyze: finds the command, runs it, prints its error. */
#include <stdio.h>
#include <string.h>

#include "analyzer/command.h"
#include "analyzer/text.h"

static const TmCommand *const commands[] = {
    &tm_cmd_top,     &tm_cmd_diff,   &tm_cmd_summary,  &tm_cmd_traceback,
    &tm_cmd_block,   &tm_cmd_leaks,  &tm_cmd_timeline, &tm_cmd_merge,
    &tm_cmd_convert, &tm_cmd_verify, &tm_cmd_extract,
};

static void print_help(const TmCommand *command)
{
    g_autofree char *program =
        command->name[0] ? g_strdup_printf("tm-analyze %s", command->name) : g_strdup("tm-analyze");
    g_autofree char *options = tm_options_help(command->takes, command->parameters,
                                               command->summary, command->extra, program);
    g_autoptr(GString) help = g_string_new(options);
    g_autofree char *wrapped = NULL;

    if (!command->name[0]) {
        g_string_append(help, "Commands (tm-analyze COMMAND --help tells more):\n");
        for (guint i = 0; i < G_N_ELEMENTS(commands); i++)
            g_string_append_printf(help, "  %-10s  %s\n", commands[i]->name, commands[i]->summary);
        g_string_append_c(help, '\n');
    }
    wrapped = tm_text_wrap(help->str, tm_text_width() - 1);
    fputs(wrapped, stdout);
}

static const TmCommand *find_command(const char *name)
{
    for (guint i = 0; name && i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return &tm_cmd_show;
}

static gboolean wants(int argc, char **argv, const char *option, const char *short_option)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], option) == 0 || (short_option && strcmp(argv[i], short_option) == 0))
            return TRUE;
    }
    return FALSE;
}

/* A full disk or a closed pipe must not look like success. */
static TmExit finish_output(TmExit status)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "ERROR: Failed to write the output\n");
        return TM_EXIT_DATA;
    }
    return status;
}

int main(int argc, char **argv)
{
    const TmCommand *command = find_command(argc > 1 ? argv[1] : NULL);
    g_autoptr(TmOptions) options = tm_options_new();
    g_autoptr(GError) error = NULL;
    TmExit status;

    if (command != &tm_cmd_show) {
        argc--;
        argv++;
    }
    if (wants(argc, argv, "--help", "-h")) {
        print_help(command);
        return finish_output(TM_EXIT_OK);
    }
    if (wants(argc, argv, "--version", NULL)) {
        puts("tm-analyze " TM_VERSION);
        return finish_output(TM_EXIT_OK);
    }
    if (!tm_options_parse(options, command->takes, command->parameters, command->summary,
                          command->extra, argc, argv, &error)) {
        fprintf(stderr, "ERROR: %s\n", error->message);
        return TM_EXIT_USAGE;
    }
    if (command == &tm_cmd_show && options->files[0] == NULL) {
        print_help(command);
        return finish_output(TM_EXIT_DATA);
    }
    status = command->run(options, &error);
    if (error) {
        fflush(stdout);
        fprintf(stderr, "ERROR: %s\n", error->message);
        return tm_exit_of(error);
    }
    return finish_output(status);
}
