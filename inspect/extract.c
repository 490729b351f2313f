// SPDX-License-Identifier: MIT
/* Chooses what there is to read, and gives the file its name when it is complete. */
#include "inspect/extract.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inspect/error.h"
#include "inspect/extract_private.h"

bool tm_extract(tm_target *target, int fd, struct tm_extract_result *ret, GError **error)
{
    struct tm_extract_result result = {0};
    uint64_t state_addr;
    bool ok;
    g_autoptr(GError) reason = NULL;
    switch (tm_extract_find_state(target, &state_addr, &reason)) {
    case TM_STATE_FOUND:
        ok = tm_extract_state(target, state_addr, fd, &result, error);
        break;
    case TM_STATE_UNUSABLE:
        g_propagate_error(error, g_steal_pointer(&reason));
        return false;
    default:
        ok = tm_extract_tracemalloc(target, fd, &result, error);
    }
    if (ok)
        *ret = result;
    return ok;
}

bool tm_extract_to_file(tm_target *target, const char *path, struct tm_extract_result *ret,
                        GError **error)
{
    g_autofree char *temporary = g_strdup_printf("%s.XXXXXX", path);
    struct tm_extract_result result;
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        /* A file would come to the place of a device. */
        tm_inspect_set_errno(error, EEXIST, "cannot write %s, which is not a regular file", path);
        return false;
    }
    int fd = g_mkstemp_full(temporary, O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        tm_inspect_set_errno(error, errno, "cannot create %s", temporary);
        return false;
    }
    bool ok = tm_extract(target, fd, &result, error);
    if (ok && (fsync(fd) != 0 || rename(temporary, path) != 0)) {
        tm_inspect_set_errno(error, errno, "cannot write %s", path);
        ok = false;
    }
    close(fd);
    if (ok)
        *ret = result;
    else
        unlink(temporary);
    return ok;
}

/* ---- shared by both readers ---- */

struct tms_writer *tm_extract_writer_new(const tm_target *target, int fd, unsigned granule_shift)
{
    struct tms_writer *writer = g_new(struct tms_writer, 1);
    uint64_t timestamp_ns =
        target->facts.timestamp_ns != 0 ? (uint64_t)target->facts.timestamp_ns : 0;
    tms_writer_init(writer, fd, timestamp_ns, granule_shift);
    return writer;
}

bool tm_extract_writer_end(struct tms_writer *writer, struct tm_extract_result *ret, GError **error)
{
    int status = tms_writer_end(writer);
    if (status < 0) {
        tm_inspect_set_errno(error, -status, "cannot write the snapshot");
        return false;
    }
    ret->traces = writer->traces;
    ret->traced_bytes = writer->traced_bytes;
    return true;
}

void tm_extract_process_facts(struct tms_writer *writer, const tm_target *target,
                              const char *python)
{
    const struct tm_target_facts *facts = &target->facts;
    if (facts->ppid != 0)
        tms_writer_fact_i64(writer, "ppid", facts->ppid);
    if (facts->start_time_ns != 0)
        tms_writer_fact_i64(writer, "start_time_ns", facts->start_time_ns);
    if (facts->cmdline != NULL)
        tms_writer_fact(writer, "cmdline", facts->cmdline);
    if (python[0] != '\0')
        tms_writer_fact(writer, "python", python);
    tms_writer_fact(writer, "implementation", "cpython");
    tms_writer_fact_i64(writer, "traces", 1);
    tms_writer_fact(writer, "tool", "tm " TM_VERSION);
    tms_writer_fact(writer, "reason", "passive");
}

void tm_strings_init(struct tm_strings *strings)
{
    strings->ends = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    strings->bytes = g_string_new(NULL);
}

void tm_strings_done(struct tm_strings *strings)
{
    if (strings->ends != NULL)
        g_array_unref(strings->ends);
    if (strings->bytes != NULL)
        g_string_free(strings->bytes, TRUE);
    *strings = (struct tm_strings){NULL, NULL};
}

uint32_t tm_strings_add(struct tm_strings *strings, const char *bytes, size_t n_bytes)
{
    if (n_bytes > TM_STRING_MAX_BYTES || strings->bytes->len + n_bytes > UINT32_MAX)
        return TMS_NO_ID;
    g_string_append_len(strings->bytes, bytes, (gssize)n_bytes);
    uint32_t end = (uint32_t)strings->bytes->len;
    g_array_append_val(strings->ends, end);
    return strings->ends->len - 1;
}

void tm_strings_write(const struct tm_strings *strings, struct tms_writer *writer)
{
    uint32_t count = strings->ends->len;
    tms_writer_begin(writer, TMS_STRINGS);
    tms_writer_bytes(writer, &count, sizeof(count));
    tms_writer_bytes(writer, strings->ends->data, (size_t)count * sizeof(uint32_t));
    tms_writer_bytes(writer, strings->bytes->str, strings->bytes->len);
    tms_writer_finish(writer);
}

void tm_extract_add_metric(GArray *metrics, struct tm_strings *strings, const char *name,
                           enum tms_metric_format format, int64_t value)
{
    struct tms_metric metric = {
        .name = tm_strings_add(strings, name, strlen(name)), .format = format, .value.i = value};
    if (metric.name != TMS_NO_ID)
        g_array_append_val(metrics, metric);
}

void tm_extract_add_percent(GArray *metrics, struct tm_strings *strings, const char *name,
                            double value)
{
    struct tms_metric metric = {.name = tm_strings_add(strings, name, strlen(name)),
                                .format = TMS_METRIC_PERCENT,
                                .value.f = value};
    if (metric.name != TMS_NO_ID)
        g_array_append_val(metrics, metric);
}

void tm_extract_add_process_metrics(GArray *metrics, struct tm_strings *strings,
                                    const tm_target *target)
{
    if (target->facts.rss_bytes == 0)
        return;
    tm_extract_add_metric(metrics, strings, "process_memory.rss", TMS_METRIC_SIZE,
                          target->facts.rss_bytes);
    tm_extract_add_metric(metrics, strings, "process_memory.vms", TMS_METRIC_SIZE,
                          target->facts.vms_bytes);
}

void tm_extract_write_array(struct tms_writer *writer, enum tms_section_type type,
                            const GArray *array)
{
    tms_writer_begin(writer, type);
    tms_writer_bytes(writer, array->data,
                     (size_t)array->len * g_array_get_element_size((GArray *)(uintptr_t)array));
    tms_writer_finish(writer);
}
