// SPDX-License-Identifier: MIT
#include "injector/options.h"

#include <math.h>
#include <string.h>

/* "--native" alone says so, and does not take the PID behind it for its depth. */
#define NATIVE_DEFAULT "--native=16"
#define NATIVE_DEPTH_MAX 128

/* As GOption leaves them. */
struct raw {
    gboolean status, snapshot, detach, version, dry_run;
    gboolean children, in_target, follow_fork, passive;
    gboolean traces, no_traces;
    char *traceback_limit, *sample, *delay, *threshold, *repeat, *lifetime, *max_snapshots;
    char *native, *output;
    char **rest;
};

static const char summary[] =
    "Traces the memory of a running Python process from now on, and writes snapshots of it\n"
    "whenever the time has come or its traced memory has moved. The process is stopped for some\n"
    "milliseconds, needs no preparation, and is left as it was by --detach. Read the snapshots\n"
    "with tm-analyze.\n\n"
    "PID may be followed by more; \"-- COMMAND ARGS\" starts a program instead.";

static const char description[] =
    "SIZE is in bytes, or with K, M, G or T (powers of 1024). TEMPLATE knows $pid, $timestamp\n"
    "(2013-10-03-11:34:39) and $counter (0001). 0 as a delay or a threshold means none.\n\n"
    "Examples:\n"
    "  tm-attach 1234                          a snapshot every 60 s, and at each move by 5 MiB\n"
    "  tm-attach --delay 10 --traceback-limit 16 1234\n"
    "  tm-attach --snapshot 1234               one now; prints the file's name\n"
    "  tm-attach --status 1234\n"
    "  tm-attach --detach 1234\n"
    "  tm-attach --children $(cat gunicorn.pid)\n"
    "  tm-attach --delay 5 -- python3 app.py\n\n"
    "Exit status:\n"
    "  0      success (of every PID)\n"
    "  1      an error without a status of its own\n"
    "  2      bad usage\n"
    "  10-23  the target is not one that can be traced: 10 no such process, 11 zombie,\n"
    "         12 a thread, 13 tm-attach itself, 14 kernel thread, 15 main thread has ended,\n"
    "         16 not Python, 17 PyPy, 18 Python without PEP 445, 19 unsupported version,\n"
    "         20 32-bit, 21 another machine, 22 static, 23 unknown libc\n"
    "  24-27  24 a debugger holds it, 25 traced already, 26 another tm-attach is at it,\n"
    "         27 not traced (--status, --snapshot, --detach)\n"
    "  30-35  permission: 30 another user's, 31 Yama, 32 not dumpable, 33 capability,\n"
    "         34 seccomp, 35 kernel too old\n"
    "  40-41  40 the payload's file, 41 internal\n"
    "  50-58  failed on the way, target unharmed: 50 no safe point, 51 stopped, 52 resources,\n"
    "         53 dlopen, 54 struct layouts, 55 Python, 56 GIL, 57 time-out, 58 it ended\n"
    "  60-66  the agent: 60 no answer, 61 protocol, 62 bad option, 63 not now, 64 output,\n"
    "         65 Python, 66 resources\n"
    "With several PIDs: that of the first failure. With -- COMMAND: the command's own.";

/* Parses an optionally fractional decimal number into value * scale, rounded; rest points behind.
 */
static bool parse_number(const char *text, double *ret, const char **ret_rest)
{
    char *end;

    if (!g_ascii_isdigit(*text) && *text != '.')
        return false; /* no sign, no "inf", no blank */
    *ret = g_ascii_strtod(text, &end);
    *ret_rest = end;
    return end != text && isfinite(*ret);
}

bool tm_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    const char *rest;
    double value;

    if (!parse_number(text, &value, &rest))
        return false;
    if (*rest) {
        const char *unit = strchr(units, g_ascii_toupper(*rest));
        if (unit) {
            for (const char *u = units; u <= unit; u++)
                value *= 1024;
            rest++;
        }
        if (unit && *rest == 'i')
            rest++;
        if (*rest == 'B')
            rest++;
    }
    if (*rest || value > (double)(INT64_MAX / 2))
        return false;
    *ret_bytes = (uint64_t)llround(value);
    return true;
}

bool tm_parse_seconds(const char *text, uint64_t *ret_ms)
{
    const char *rest;
    double value;

    if (!parse_number(text, &value, &rest) || *rest || value > 1e12)
        return false;
    *ret_ms = (uint64_t)llround(value * 1000);
    if (*ret_ms == 0 && value > 0)
        *ret_ms = 1;
    return true;
}

static bool parse_count(const char *text, uint64_t *ret)
{
    guint64 value;

    if (!g_ascii_string_to_unsigned(text, 10, 0, INT64_MAX, &value, NULL))
        return false;
    *ret = value;
    return true;
}

static bool parse_native(const char *text, uint64_t *ret)
{
    return parse_count(text, ret) && *ret <= NATIVE_DEPTH_MAX;
}

static bool take(struct tm_given *ret, const char *text, bool (*parse)(const char *, uint64_t *),
                 const char *option, const char *kind, GError **error)
{
    if (!text)
        return true;
    ret->given = true;
    if (parse(text, &ret->value))
        return true;
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "--%s: '%s' is not %s", option,
                text, kind);
    return false;
}

static bool take_numbers(struct tm_attach_options *ret, const struct raw *raw, GError **error)
{
    return take(&ret->traceback_limit, raw->traceback_limit, parse_count, "traceback-limit",
                "a number of frames", error) &&
           take(&ret->native_depth, raw->native, parse_native, "native",
                "a number of frames, 0 to 128", error) &&
           take(&ret->sample_bytes, raw->sample, tm_parse_size, "sample", "a size", error) &&
           take(&ret->delay_ms, raw->delay, tm_parse_seconds, "delay", "a number of seconds",
                error) &&
           take(&ret->threshold_bytes, raw->threshold, tm_parse_size, "memory-threshold", "a size",
                error) &&
           take(&ret->repeat, raw->repeat, parse_count, "repeat", "a count", error) &&
           take(&ret->lifetime_ms, raw->lifetime, tm_parse_seconds, "lifetime",
                "a number of seconds", error) &&
           take(&ret->max_snapshots, raw->max_snapshots, parse_count, "max-snapshots", "a count",
                error);
}

static bool take_pids(struct tm_attach_options *ret, char **rest, GError **error)
{
    for (; rest && *rest; rest++) {
        guint64 value;
        if (!g_ascii_string_to_unsigned(*rest, 10, 1, INT32_MAX, &value, NULL)) {
            g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "'%s' is not a PID",
                        *rest);
            return false;
        }
        pid_t pid = (pid_t)value;
        g_array_append_val(ret->pids, pid);
    }
    return true;
}

static bool choose_verb(struct tm_attach_options *ret, const struct raw *raw, GError **error)
{
    int verbs = raw->status + raw->snapshot + raw->detach + raw->dry_run;
    const char *problem = NULL;

    ret->verb = raw->version    ? TM_VERB_VERSION
                : raw->status   ? TM_VERB_STATUS
                : raw->snapshot ? TM_VERB_SNAPSHOT
                : raw->detach   ? TM_VERB_DETACH
                : raw->dry_run  ? TM_VERB_CHECK
                : ret->command  ? TM_VERB_LAUNCH
                                : TM_VERB_ATTACH;
    if (ret->verb == TM_VERB_VERSION)
        return true;
    if (verbs > 1)
        problem = "only one of --status, --snapshot, --detach and --dry-run at a time";
    else if (ret->passive && (ret->verb != TM_VERB_SNAPSHOT || ret->in_target))
        problem = "--passive goes with --snapshot, and not with --in-target";
    else if (ret->command && (verbs || ret->pids->len))
        problem = "a command to start goes with neither a PID nor --status, --snapshot, --detach";
    else if (ret->command && !*ret->command)
        problem = "there is no command after --";
    else if (!ret->command && !ret->pids->len)
        problem = "missing PID";
    if (problem)
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "%s; see tm-attach --help",
                    problem);
    return !problem;
}

static bool parse_raw(struct raw *raw, int *argc, char ***argv, GError **error)
{
    const GOptionEntry actions[] = {
        {"snapshot", 0, 0, G_OPTION_ARG_NONE, &raw->snapshot,
         "Take a snapshot now and print the file's name", NULL},
        {"passive", 0, 0, G_OPTION_ARG_NONE, &raw->passive,
         "With --snapshot: read the process' memory from outside, for one that does not answer",
         NULL},
        {"status", 0, 0, G_OPTION_ARG_NONE, &raw->status, "Say what is traced and written", NULL},
        {"detach", 0, 0, G_OPTION_ARG_NONE, &raw->detach,
         "End tracing and leave the process as it was", NULL},
        {"dry-run", 0, 0, G_OPTION_ARG_NONE, &raw->dry_run,
         "Only look whether PID can be attached to", NULL},
        {"delay", 0, 0, G_OPTION_ARG_STRING, &raw->delay, "A snapshot every so often (default 60)",
         "SECONDS"},
        {"memory-threshold", 0, 0, G_OPTION_ARG_STRING, &raw->threshold,
         "A snapshot when traced memory moved by this, up or down (default 5M)", "SIZE"},
        {"repeat", 0, 0, G_OPTION_ARG_STRING, &raw->repeat,
         "This many snapshots by time or memory (default: no end)", "N"},
        {"output", 0, 0, G_OPTION_ARG_FILENAME, &raw->output,
         "Name of the files (default tracemalloc-$pid-$counter.tms)", "TEMPLATE"},
        {"in-target", 0, 0, G_OPTION_ARG_NONE, &raw->in_target,
         "TEMPLATE is meant in the process' own directory and mounts", NULL},
        {"traceback-limit", 0, 0, G_OPTION_ARG_STRING, &raw->traceback_limit,
         "Frames to keep of each traceback (default 1)", "N"},
        {"native", 0, 0, G_OPTION_ARG_STRING, &raw->native,
         "Native frames in the tracebacks, too (default depth 16)", "DEPTH"},
        {"traces", 0, 0, G_OPTION_ARG_NONE, &raw->traces,
         "Every memory block in the snapshots (default)", NULL},
        {"no-traces", 0, 0, G_OPTION_ARG_NONE, &raw->no_traces,
         "Only sums by line in the snapshots", NULL},
        {"sample", 0, 0, G_OPTION_ARG_STRING, &raw->sample,
         "Trace about one block in SIZE bytes (default: every block)", "SIZE"},
        {"lifetime", 0, 0, G_OPTION_ARG_STRING, &raw->lifetime, "Detach by itself after this time",
         "SECONDS"},
        {"max-snapshots", 0, 0, G_OPTION_ARG_STRING, &raw->max_snapshots,
         "Detach by itself after this many snapshots", "N"},
        {"children", 0, 0, G_OPTION_ARG_NONE, &raw->children,
         "PID and all Python processes below it", NULL},
        {"follow-fork", 0, 0, G_OPTION_ARG_NONE, &raw->follow_fork,
         "Trace children that are forked later, too", NULL},
        {"version", 0, 0, G_OPTION_ARG_NONE, &raw->version, "Print the version", NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &raw->rest, NULL, NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("PID... | -- COMMAND [ARG...]");
    g_option_context_set_summary(context, summary);
    g_option_context_set_description(context, description);
    g_option_context_add_main_entries(context, actions, NULL);
    return g_option_context_parse(context, argc, argv, error);
}

static void raw_done(struct raw *raw)
{
    char *strings[] = {raw->traceback_limit, raw->sample, raw->delay,
                       raw->threshold,       raw->repeat, raw->lifetime,
                       raw->max_snapshots,   raw->output, raw->native};

    for (size_t i = 0; i < G_N_ELEMENTS(strings); i++)
        g_free(strings[i]);
    g_strfreev(raw->rest);
}

static bool take_raw(struct tm_attach_options *ret, struct raw *raw, GError **error)
{
    ret->children = raw->children;
    ret->in_target = raw->in_target;
    ret->passive = raw->passive;
    ret->follow_fork = raw->follow_fork;
    ret->output = g_steal_pointer(&raw->output);
    if (raw->traces || raw->no_traces)
        ret->traces = (struct tm_given){.given = true, .value = !raw->no_traces};
    if (raw->traces && raw->no_traces) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--traces and --no-traces contradict each other");
        return false;
    }
    if (ret->output && (!*ret->output || g_str_has_suffix(ret->output, "/"))) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--output: '%s' does not name a file", ret->output);
        return false;
    }
    return take_numbers(ret, raw, error) && take_pids(ret, raw->rest, error) &&
           choose_verb(ret, raw, error);
}

bool tm_attach_options_parse(struct tm_attach_options *ret, int argc, char **argv, GError **error)
{
    struct raw raw = {0};

    *ret = (struct tm_attach_options){.pids = g_array_new(FALSE, FALSE, sizeof(pid_t))};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--")) {
            /* The command's options are none of ours. */
            ret->command = argv + i + 1;
            argc = i;
            break;
        }
    }
    g_auto(GStrv) ours = g_new0(char *, (gsize)argc + 1);
    for (int i = 0; i < argc; i++)
        ours[i] = g_strdup(strcmp(argv[i], "--native") ? argv[i] : NATIVE_DEFAULT);
    /* GOption moves pointers about in what it gets; the strings stay ours. */
    g_autofree char **parsed = g_new0(char *, (gsize)argc + 1);
    memcpy(parsed, ours, sizeof(*ours) * (gsize)argc);
    bool ok = parse_raw(&raw, &argc, &parsed, error) && take_raw(ret, &raw, error);
    raw_done(&raw);
    return ok;
}

void tm_attach_options_done(struct tm_attach_options *options)
{
    g_clear_pointer(&options->pids, g_array_unref);
    g_clear_pointer(&options->output, g_free);
}

bool tm_attach_options_change_anything(const struct tm_attach_options *options)
{
    return options->output || options->in_target || options->traces.given ||
           options->traceback_limit.given || options->sample_bytes.given ||
           options->native_depth.given || options->delay_ms.given ||
           options->threshold_bytes.given || options->repeat.given || options->lifetime_ms.given ||
           options->max_snapshots.given;
}
