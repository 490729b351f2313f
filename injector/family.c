// SPDX-License-Identifier: MIT
#include "injector/family.h"

#include "inspect/process.h"

static void append_children(GArray *family, pid_t pid, pid_t tid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/children", (int)pid, (int)tid);
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return;
    for (const char *at = text;;) {
        char *end;
        pid_t child = (pid_t)g_ascii_strtoull(at, &end, 10);
        if (end == at)
            break;
        g_array_append_val(family, child);
        at = end;
    }
}

GArray *tm_family_read(pid_t pid)
{
    GArray *family = g_array_new(FALSE, FALSE, sizeof(pid_t));

    g_array_append_val(family, pid);
    /* The array grows while it is walked; a child is listed under the thread that forked it. */
    for (guint i = 0; i < family->len; i++) {
        pid_t member = g_array_index(family, pid_t, i);
        g_autoptr(GArray) threads = tm_process_threads(member, NULL);
        for (guint t = 0; threads && t < threads->len; t++)
            append_children(family, member, g_array_index(threads, pid_t, t));
    }
    return family;
}
