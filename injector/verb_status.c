// SPDX-License-Identifier: MIT
#include "injector/verbs.h"

#include <string.h>
#include <time.h>

#include "injector/client.h"

#define STATUS_TIMEOUT_MS 30000
#define LABEL "  %-15s "

static void format_size(uint64_t bytes, char ret[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;

    while (bytes >= 5 * 1024 && unit + 1 < G_N_ELEMENTS(units)) {
        bytes /= 1024;
        unit++;
    }
    g_snprintf(ret, 32, "%" G_GUINT64_FORMAT " %s", (guint64)bytes, units[unit]);
}

static void format_time(uint64_t real_ns, char ret[32])
{
    time_t seconds = (time_t)(real_ns / 1000000000);
    struct tm local;

    if (!localtime_r(&seconds, &local) || !strftime(ret, 32, "%Y-%m-%d %H:%M:%S", &local))
        strcpy(ret, "?");
}

static void print_size(FILE *out, const tm_client *client, const char *label, const char *key)
{
    char size[32];

    format_size(tm_client_get_u64(client, key), size);
    fprintf(out, LABEL "%s\n", label, size);
}

static void print_tracing(FILE *out, const tm_client *client)
{
    char size[32], peak[32], since[32];

    format_time(tm_client_get_u64(client, "started_ns"), since);
    fprintf(out, LABEL "%s\n", "since:", since);
    fprintf(out, LABEL "%" G_GUINT64_FORMAT "%s",
            "frames:", (guint64)tm_client_get_u64(client, "traceback_limit"),
            tm_client_get_u64(client, "traces") ? "" : ", sums by line only");
    if (tm_client_get_u64(client, "sample_bytes")) {
        format_size(tm_client_get_u64(client, "sample_bytes"), size);
        fprintf(out, ", one sample in %s", size);
    }
    if (tm_client_has(client, "unseen"))
        fprintf(out, "\n" LABEL "%s", "unseen:", tm_client_get(client, "unseen"));
    format_size(tm_client_get_u64(client, "traced_bytes"), size);
    format_size(tm_client_get_u64(client, "peak_bytes"), peak);
    fprintf(out, "\n" LABEL "%s in %" G_GUINT64_FORMAT " blocks (peak %s)\n", "traced:", size,
            (guint64)tm_client_get_u64(client, "traced_blocks"), peak);
    print_size(out, client, "own memory:", "own_bytes");
    fprintf(out, LABEL "%" G_GUINT64_FORMAT "\n",
            "dropped:", (guint64)tm_client_get_u64(client, "dropped"));
}

static void print_record(FILE *out, const tm_client *client)
{
    char when[32];

    fprintf(out, LABEL "%" G_GUINT64_FORMAT " written, %" G_GUINT64_FORMAT " failed\n",
            "snapshots:", (guint64)tm_client_get_u64(client, "written"),
            (guint64)tm_client_get_u64(client, "failed"));
    g_autofree char *last = tm_client_dup_path(client, "last_file");
    if (last)
        fprintf(out, LABEL "%s\n", "last file:", last);
    if (tm_client_has(client, "last_error")) {
        format_time(tm_client_get_u64(client, "last_error_ns"), when);
        fprintf(out, LABEL "%s (%s)\n", "last error:", tm_client_get(client, "last_error"), when);
    }
}

static void print_when(FILE *out, const tm_client *client)
{
    char low[32], high[32];
    bool timed = tm_client_has(client, "next_ms");

    if (!tm_client_get_u64(client, "scheduled")) {
        fputs("on request only", out);
        return;
    }
    if (timed)
        fprintf(out, "in %.0f s", (double)tm_client_get_u64(client, "next_ms") / 1000);
    if (tm_client_has(client, "next_high_bytes")) {
        format_size(tm_client_get_u64(client, "next_low_bytes"), low);
        format_size(tm_client_get_u64(client, "next_high_bytes"), high);
        fprintf(out, "%sat %s", timed ? ", or " : "", high);
        if (tm_client_get_u64(client, "next_low_bytes"))
            fprintf(out, " or %s", low);
        fputs(" traced", out);
    }
    if (tm_client_has(client, "repeat_left"))
        fprintf(out, ", %s times", tm_client_get(client, "repeat_left"));
}

static void print_next(FILE *out, const tm_client *client)
{
    g_autofree char *path = tm_client_dup_path(client, "next_file");

    fprintf(out, LABEL, "next snapshot:");
    print_when(out, client);
    if (path)
        fprintf(out, "\n" LABEL "%s", "goes to:", path);
    fputc('\n', out);
    if (tm_client_has(client, "lifetime_left_ms"))
        fprintf(out, LABEL "in %.0f s\n",
                "detaches:", (double)tm_client_get_u64(client, "lifetime_left_ms") / 1000);
    if (tm_client_has(client, "max_snapshots"))
        fprintf(out, LABEL "after %s snapshots\n",
                "detaches:", tm_client_get(client, "max_snapshots"));
}

bool tm_verb_status(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error)
{
    g_autoptr(tm_client) client = tm_client_connect_pid(pid, NULL, error);

    (void)options;
    if (!client)
        return false;
    tm_client_request(client, TM_MSG_STATUS);
    if (!tm_client_call(client, -1, STATUS_TIMEOUT_MS, error))
        return false;
    fprintf(out, "%d: %s, Python %s%s\n", (int)pid, tm_client_get(client, "state"),
            tm_client_get(client, "python"),
            tm_client_get_u64(client, "free_threaded") ? " (free-threaded)" : "");
    print_tracing(out, client);
    print_record(out, client);
    print_next(out, client);
    fprintf(out, LABEL "tm %s, struct layouts from %s\n",
            "agent:", tm_client_get(client, "version"), tm_client_get(client, "layout"));
    return true;
}
