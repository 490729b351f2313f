// SPDX-License-Identifier: MIT
/* What tm-attach can do to one process. Each prints its success on `out`; a failure is returned,
 * and printed by main. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "injector/options.h"

/* Attaches and starts tracing; for a process that is traced already, sets new options. */
bool tm_verb_attach(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error);
bool tm_verb_status(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error);
bool tm_verb_snapshot(pid_t pid, const struct tm_attach_options *options, FILE *out,
                      GError **error);
bool tm_verb_detach(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error);
bool tm_verb_check(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error);
/* Starts options->command, attaches, and waits for its end. Returns the exit status for
 * tm-attach; where the command was killed by a signal, does not return but dies of the same. */
int tm_verb_launch(const struct tm_attach_options *options);

/* One line on stderr, and the exit status of the error. Frees it. */
int tm_report_error(GError *error);
