// SPDX-License-Identifier: MIT
/* The shared options, by GOption. */
#include "analyzer/options.h"

#include <errno.h>
#include <string.h>

#include "analyzer/error.h"
#include "analyzer/symbolize.h"
#include "analyzer/text.h"

static const char *const group_names[TM_BY_COUNT] = {
    "line",       "file",   "function", "traceback", "address", "domain",
    "size-class", "thread", "age",      "type",      "module",
};

const char *tm_group_by_name(enum tm_group_by by)
{
    return group_names[by];
}

gboolean tm_parse_group_by(const char *text, enum tm_group_by *ret)
{
    if (strcmp(text, "filename") == 0) /* The API's word. */
        text = "file";
    for (guint i = 0; i < TM_BY_COUNT; i++) {
        if (strcmp(text, group_names[i]) == 0) {
            *ret = (enum tm_group_by)i;
            return TRUE;
        }
    }
    return FALSE;
}

gboolean tm_parse_address(const char *text, guint64 *ret)
{
    int base = 10;
    char *end;

    if (g_ascii_strncasecmp(text, "0x", 2) == 0)
        base = 16;
    else if (g_ascii_strncasecmp(text, "0b", 2) == 0)
        base = 2;
    else if (g_ascii_strncasecmp(text, "0o", 2) == 0 || text[0] == '0')
        base = 8;
    if (text[0] == '0' && text[1] != '\0' && !g_ascii_isdigit(text[1]))
        text += 2;
    if (!g_ascii_isxdigit(text[0]))
        return FALSE;
    errno = 0;
    *ret = g_ascii_strtoull(text, &end, (guint)base);
    return errno == 0 && *end == '\0';
}

gboolean tm_parse_size(const char *text, guint64 *ret_bytes)
{
    static const char units[] = "kmgt";
    char *end;
    guint64 amount;
    int shift = 0;

    if (!g_ascii_isdigit(text[0]))
        return FALSE;
    errno = 0;
    amount = g_ascii_strtoull(text, &end, 10);
    while (*end == ' ')
        end++;
    if (*end && strchr(units, g_ascii_tolower(*end))) {
        shift = 10 * (int)(strchr(units, g_ascii_tolower(*end)) - units + 1);
        end++;
        if (*end == 'i')
            end++;
    }
    if (*end == 'B' || *end == 'b')
        end++;
    *ret_bytes = amount << shift;
    return errno == 0 && *end == '\0' && *ret_bytes >> shift == amount;
}

TmOptions *tm_options_new(void)
{
    TmOptions *options = g_new0(TmOptions, 1);

    options->number = 10;
    options->filename_parts = 3;
    options->color = tm_text_wants_color();
    options->filters = g_array_new(FALSE, FALSE, sizeof(struct tm_filter));
    g_array_set_clear_func(options->filters, (GDestroyNotify)(void (*)(void))tm_filter_done);
    return options;
}

void tm_options_free(TmOptions *options)
{
    if (options == NULL)
        return;
    g_strfreev(options->files);
    g_array_unref(options->filters);
    g_free(options->source_root);
    g_free(options);
}

static gboolean bad_value(GError **error, const char *name, const char *value, const char *wanted)
{
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "%s: %s is not %s", name, value,
                wanted);
    return FALSE;
}

/* FILENAME[:LINENO] */
static gboolean add_filter(TmOptions *options, const char *name, const char *value, unsigned flags,
                           GError **error)
{
    const char *colon = strrchr(value, ':');
    size_t n_bytes = colon ? (size_t)(colon - value) : strlen(value);
    struct tm_filter filter;
    gint64 line = 0;

    if (colon && !g_ascii_string_to_signed(colon + 1, 10, 0, G_MAXINT32, &line, NULL))
        return bad_value(error, name, colon + 1, "a line number");
    switch (tm_filter_init(&filter, flags, value, n_bytes, (gint32)line)) {
    case TM_FILTER_TOO_MANY_JOKERS:
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "%s: too many joker characters in the filename pattern", name);
        return FALSE;
    case TM_FILTER_NO_MEMORY:
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "not enough memory");
        return FALSE;
    default:
        g_array_append_val(options->filters, filter);
        return TRUE;
    }
}

static gboolean is(const char *name, const char *short_name, const char *long_name)
{
    return strcmp(name, short_name) == 0 || strcmp(name, long_name) == 0;
}

static gboolean parse_filter(const char *name, const char *value, void *data, GError **error)
{
    unsigned flags = TM_FILTER_EXCLUDE;

    if (is(name, "-i", "--include"))
        flags = TM_FILTER_INCLUDE;
    else if (is(name, "-I", "--include-traceback"))
        flags = TM_FILTER_INCLUDE | TM_FILTER_TRACEBACK;
    else if (is(name, "-X", "--exclude-traceback"))
        flags = TM_FILTER_EXCLUDE | TM_FILTER_TRACEBACK;
    return add_filter(data, name, value, flags, error);
}

static gboolean parse_grouping(const char *name, const char *value, void *data, GError **error)
{
    TmOptions *options = data;

    if (is(name, "-a", "--address"))
        options->by = TM_BY_ADDRESS;
    else if (is(name, "-f", "--file"))
        options->by = TM_BY_FILE;
    else if (!tm_parse_group_by(value, &options->by))
        return bad_value(error, name, value,
                         "one of line, file, function, traceback, address, domain, size-class, "
                         "thread, age, type, module");
    return TRUE;
}

static gboolean parse_number(const char *name, const char *value, void *data, GError **error)
{
    TmOptions *options = data;
    gboolean parts = is(name, "-P", "--filename-parts");
    gint64 number;

    if (!g_ascii_string_to_signed(value, 10, parts ? 1 : 0, G_MAXINT32, &number, NULL))
        return bad_value(error, name, value, parts ? "a number above 0" : "a number");
    *(parts ? &options->filename_parts : &options->number) = (int)number;
    return TRUE;
}

static gboolean parse_color(const char *name, const char *value, void *data, GError **error)
{
    (void)value;
    (void)error;
    ((TmOptions *)data)->color = strcmp(name, "--color") == 0;
    return TRUE;
}

static gboolean parse_output(const char *name, const char *value, void *data, GError **error)
{
    (void)value;
    (void)error;
    ((TmOptions *)data)->output = strcmp(name, "--json") == 0 ? TM_OUTPUT_JSON : TM_OUTPUT_CSV;
    return TRUE;
}

static gboolean parse_fail_over(const char *name, const char *value, void *data, GError **error)
{
    TmOptions *options = data;

    options->has_fail_over = tm_parse_size(value, &options->fail_over_bytes);
    return options->has_fail_over || bad_value(error, name, value, "a size such as 10M");
}

static gboolean parse_block(const char *name, const char *value, void *data, GError **error)
{
    TmOptions *options = data;

    options->has_block = tm_parse_address(value, &options->block_address);
    if (!options->has_block)
        return bad_value(error, name, value, "an address");
    return options->block_address != 0 || bad_value(error, name, value, "an address of a block");
}

#define CALLBACK(long_name, letter, flags, function, help, arg)                                    \
    {                                                                                              \
        long_name, letter, flags, G_OPTION_ARG_CALLBACK, (void *)(function), help, arg             \
    }
#define SWITCH(long_name, letter, field, help)                                                     \
    {                                                                                              \
        long_name, letter, 0, G_OPTION_ARG_NONE, &options->field, help, NULL                       \
    }
#define NO_ARG G_OPTION_FLAG_NO_ARG
#define ENTRIES(...)                                                                               \
    g_option_group_add_entries(group, (const GOptionEntry[]){__VA_ARGS__, G_OPTION_ENTRY_NULL})

static void add_entries(GOptionGroup *group, TmOptions *options, unsigned takes)
{
    if (takes & TM_TAKES_GROUPING)
        ENTRIES(CALLBACK("address", 'a', NO_ARG, parse_grouping, "Group by address", NULL),
                CALLBACK("file", 'f', NO_ARG, parse_grouping, "Group by file", NULL),
                CALLBACK("group-by", 'g', 0, parse_grouping,
                         "Group by line (default), file, function, traceback, address, domain, "
                         "size-class, thread, age, type or module",
                         "NOUN"),
                SWITCH("cumulative", 'c', cumulative,
                       "Count all frames, not only the most recent one"));
    if (takes & (TM_TAKES_GROUPING | TM_TAKES_NUMBER))
        ENTRIES(CALLBACK("number", 'n', 0, parse_number, "Number of items shown (default: 10)",
                         "NUMBER"));
    if (takes & TM_TAKES_FIRST)
        ENTRIES(SWITCH("first", 0, first, "Compare with the first snapshot, not the previous one"));
    if (takes & TM_TAKES_BLOCKS)
        ENTRIES(
            CALLBACK("block", 'b', 0, parse_block, "Show the memory block at ADDRESS", "ADDRESS"),
            SWITCH("traceback", 't', traceback,
                   "Show the tracebacks of the NUMBER biggest memory blocks"));
    if (takes & TM_TAKES_FILTERS)
        ENTRIES(CALLBACK("include", 'i', 0, parse_filter, "Only traces of these files",
                         "FILENAME[:LINENO]"),
                CALLBACK("include-traceback", 'I', 0, parse_filter, "Only traces with such a frame",
                         "FILENAME[:LINENO]"),
                CALLBACK("exclude", 'x', 0, parse_filter, "No traces of these files",
                         "FILENAME[:LINENO]"),
                CALLBACK("exclude-traceback", 'X', 0, parse_filter, "No traces with such a frame",
                         "FILENAME[:LINENO]"));
    if (takes & TM_TAKES_DISPLAY)
        ENTRIES(SWITCH("hide-size", 'S', hide_size, "Hide sizes"),
                SWITCH("hide-count", 'C', hide_count, "Hide numbers of allocations"),
                SWITCH("hide-average", 'A', hide_average, "Hide average sizes"),
                SWITCH("hide-metrics", 'M', hide_metrics, "Hide metrics"),
                CALLBACK("filename-parts", 'P', 0, parse_number,
                         "Number of parts of file names shown (default: 3)", "PARTS"),
                CALLBACK("color", 0, NO_ARG, parse_color, "Always use colors", NULL),
                CALLBACK("no-color", 0, NO_ARG, parse_color, "Never use colors", NULL));
    if (takes & TM_TAKES_FILTERS)
        ENTRIES({"debug-dir", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &tm_symbolize_settings.debug_dirs,
                 "Native frames: look for separate debug files in DIRECTORY, too", "DIRECTORY"},
                {"debuginfod", 0, 0, G_OPTION_ARG_NONE, &tm_symbolize_settings.debuginfod,
                 "Native frames: ask the servers of DEBUGINFOD_URLS", NULL},
                {"no-symbols", 0, 0, G_OPTION_ARG_NONE, &tm_symbolize_settings.off,
                 "Native frames: show addresses only", NULL});
    if (takes & TM_TAKES_SOURCE)
        ENTRIES({"source-root", 0, 0, G_OPTION_ARG_FILENAME, &options->source_root,
                 "Look for source files below DIRECTORY", "DIRECTORY"});
    if (takes & TM_TAKES_FAIL_OVER)
        ENTRIES(CALLBACK("fail-over", 0, 0, parse_fail_over,
                         "Exit with status 3 if memory is, or has grown by, more than SIZE",
                         "SIZE"));
    if (takes & TM_TAKES_OUTPUT)
        ENTRIES(CALLBACK("json", 0, NO_ARG, parse_output, "Write JSON", NULL),
                CALLBACK("csv", 0, NO_ARG, parse_output, "Write CSV", NULL));
}

static GOptionContext *make_context(TmOptions *options, unsigned takes, const char *parameters,
                                    const char *summary, const GOptionEntry *extra)
{
    GOptionContext *context = g_option_context_new(parameters);
    GOptionGroup *group = g_option_group_new("tm", "", "", options, NULL);

    add_entries(group, options, takes);
    if (extra)
        g_option_group_add_entries(group, extra);
    g_option_context_set_main_group(context, group);
    g_option_context_set_summary(context, summary);
    return context;
}

/* A copy of the arguments in which "-n1" is "-n", "1": GOption takes the next argument for the
 * value of a short option, whatever is attached to it. */
static char **split_short_options(int argc, char **argv)
{
    char **args = g_new0(char *, 2 * argc + 1);
    gboolean options_end = FALSE;
    int n = 0;

    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        options_end = options_end || (i > 0 && strcmp(arg, "--") == 0);
        if (i > 0 && !options_end && arg[0] == '-' && arg[1] != '\0' && arg[2] != '\0' &&
            strchr("bgiInoPxX", arg[1]) != NULL) {
            args[n++] = g_strndup(arg, 2);
            args[n++] = g_strdup(arg + 2);
        } else {
            args[n++] = g_strdup(arg);
        }
    }
    return args;
}

gboolean tm_options_parse(TmOptions *options, unsigned takes, const char *parameters,
                          const char *summary, const GOptionEntry *extra, int argc, char **argv,
                          GError **error)
{
    g_autoptr(GOptionContext) context = make_context(options, takes, parameters, summary, extra);
    g_autoptr(GError) reason = NULL;
    g_autoptr(GPtrArray) files = g_ptr_array_new();
    g_auto(GStrv) args = split_short_options(argc, argv);

    if (!g_option_context_parse_strv(context, &args, &reason))
        return tm_error_usage(error, "%s", reason->message);
    for (guint i = 1; args[i]; i++) {
        if (i > 1 || strcmp(args[i], "--") != 0)
            g_ptr_array_add(files, g_strdup(args[i]));
    }
    g_ptr_array_add(files, NULL);
    options->files = (char **)g_ptr_array_free(g_steal_pointer(&files), FALSE);
    return TRUE;
}

char *tm_options_help(unsigned takes, const char *parameters, const char *summary,
                      const GOptionEntry *extra, const char *program)
{
    g_autoptr(TmOptions) options = tm_options_new();
    g_autoptr(GOptionContext) context = make_context(options, takes, parameters, summary, extra);

    g_set_prgname(program);
    return g_option_context_get_help(context, TRUE, NULL);
}
