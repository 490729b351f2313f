// SPDX-License-Identifier: MIT
#include "injector/inject.h"
#include "injector/payload_file.h"
#include "injector/verbs.h"

bool tm_verb_check(pid_t pid, const struct tm_attach_options *options, FILE *out, GError **error)
{
    struct tm_inject_result result = {0};
    g_autoptr(GBytes) payload = tm_payload_file_read(error);
    struct tm_inject_request request = {.pid = pid, .payload = payload};

    (void)options;
    if (!payload || !tm_inject_check(&request, &result, error))
        return false;
    fprintf(out, "%d: can be attached to, Python %s\n", (int)pid, result.python_version);
    return true;
}
