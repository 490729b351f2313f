// SPDX-License-Identifier: MIT
#include "payload/options.h"

#include <stdio.h>
#include <string.h>

#include "payload/tracer.h"

/* As payload/native/native.h has it, which the agent needs nothing else of. */
#define TM_NATIVE_DEPTH_MAX 128
#define DAY_S 86400

struct parse {
    const struct tm_msg_buf *msg;
    char *message;
    size_t message_bytes;
    bool failed;
};

void tm_options_init(struct tm_options *options)
{
    *options = (struct tm_options){
        .with_traces = true,
        .traceback_limit = 1,
        .delay_ms = 60 * 1000,
        .threshold_bytes = 5 << 20,
        .output = "tracemalloc-$pid-$counter.tms",
    };
}

static void fail(struct parse *parse, const char *key, const char *why)
{
    if (!parse->failed)
        snprintf(parse->message, parse->message_bytes, "%s: %s", key, why);
    parse->failed = true;
}

static void take_u64(struct parse *parse, const char *key, uint64_t max, uint64_t *ret)
{
    uint64_t value;

    if (!tm_msg_get(parse->msg, key))
        return;
    if (!tm_msg_get_u64(parse->msg, key, &value)) {
        fail(parse, key, "must be a whole number");
    } else if (value > max) {
        char why[64];
        snprintf(why, sizeof(why), "must be in range [0; %llu]", (unsigned long long)max);
        fail(parse, key, why);
    } else {
        *ret = value;
    }
}

static void take_bool(struct parse *parse, const char *key, bool *ret)
{
    uint64_t value = *ret;

    take_u64(parse, key, 1, &value);
    *ret = value != 0;
}

static void take_offset(struct parse *parse, const char *key, int64_t *ret)
{
    const char *text = tm_msg_get(parse->msg, key);
    int64_t value = 0;

    if (!text)
        return;
    bool negative = *text == '-';
    text += negative;
    if (!*text)
        value = DAY_S + 1;
    for (; *text && value <= DAY_S; text++)
        value = *text >= '0' && *text <= '9' ? value * 10 + (*text - '0') : DAY_S + 1;
    if (value > DAY_S)
        fail(parse, key, "must be a number of seconds within a day");
    else
        *ret = negative ? -value : value;
}

static void take_output(struct parse *parse, char ret[TM_OUTPUT_TEMPLATE_BYTES])
{
    const char *text = tm_msg_get(parse->msg, "output");

    if (!text)
        return;
    size_t length = strlen(text);
    if (length == 0)
        fail(parse, "output", "must not be empty");
    else if (text[length - 1] == '/')
        fail(parse, "output", "must name a file, not a directory");
    else if (length >= TM_OUTPUT_TEMPLATE_BYTES)
        fail(parse, "output", "is too long");
    else
        memcpy(ret, text, length + 1);
}

/* "KIND:LINE:PATTERN"; the pattern may hold further colons. */
static bool parse_filter(const char *text, struct tm_filter_spec *ret)
{
    static const struct {
        const char *kind;
        uint32_t flags;
    } kinds[] = {
        {"include:", TM_FILTERS_INCLUDE},
        {"exclude:", 0},
        {"include-traceback:", TM_FILTERS_INCLUDE | TM_FILTERS_TRACEBACK},
        {"exclude-traceback:", TM_FILTERS_TRACEBACK},
    };
    int64_t line = 0;

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        size_t n_bytes = strlen(kinds[i].kind);
        if (strncmp(text, kinds[i].kind, n_bytes) != 0)
            continue;
        for (text += n_bytes; *text >= '0' && *text <= '9' && line <= INT32_MAX; text++)
            line = line * 10 + (*text - '0');
        if (*text++ != ':' || line > INT32_MAX)
            return false;
        *ret = (struct tm_filter_spec){text, strlen(text), (int32_t)line, kinds[i].flags};
        return true;
    }
    return false;
}

bool tm_options_parse_filters(struct tm_option_filters *ret, const struct tm_msg_buf *msg,
                              char *message, size_t message_bytes)
{
    struct parse parse = {.msg = msg, .message = message, .message_bytes = message_bytes};
    uint64_t count = 0;

    ret->given = tm_msg_get(msg, "filters") != NULL;
    ret->count = 0;
    take_u64(&parse, "filters", TM_OPTION_FILTERS_MAX, &count);
    for (uint64_t i = 0; i < count && !parse.failed; i++) {
        char key[16];
        snprintf(key, sizeof(key), "filter%u", (unsigned)i);
        const char *text = tm_msg_get(msg, key);
        if (text == NULL || !parse_filter(text, &ret->specs[ret->count++]))
            fail(&parse, key, "must be KIND:LINE:PATTERN");
    }
    return !parse.failed;
}

bool tm_options_parse(struct tm_options *options, const struct tm_msg_buf *msg, char *message,
                      size_t message_bytes)
{
    struct tm_options parsed = *options;
    struct parse parse = {.msg = msg, .message = message, .message_bytes = message_bytes};
    uint64_t limit = parsed.traceback_limit;

    take_bool(&parse, "traces", &parsed.with_traces);
    take_bool(&parse, "in_target", &parsed.in_target);
    take_bool(&parse, "follow_fork", &parsed.follow_fork);
    take_u64(&parse, "traceback_limit", TM_TRACEBACK_LIMIT_MAX, &limit);
    parsed.traceback_limit = (uint32_t)limit;
    take_u64(&parse, "native", TM_NATIVE_DEPTH_MAX, &parsed.native_depth);
    take_u64(&parse, "sample_bytes", INT64_MAX, &parsed.sample_bytes);
    take_u64(&parse, "delay_ms", INT64_MAX, &parsed.delay_ms);
    take_u64(&parse, "threshold_bytes", INT64_MAX, &parsed.threshold_bytes);
    take_u64(&parse, "repeat", INT64_MAX, &parsed.repeat);
    take_u64(&parse, "lifetime_ms", INT64_MAX, &parsed.lifetime_ms);
    take_u64(&parse, "max_snapshots", INT64_MAX, &parsed.max_snapshots);
    take_u64(&parse, "pid", INT32_MAX, &parsed.shown_pid);
    take_offset(&parse, "utc_offset_s", &parsed.utc_offset_s);
    take_output(&parse, parsed.output);
    if (!parse.failed)
        *options = parsed;
    return !parse.failed;
}
