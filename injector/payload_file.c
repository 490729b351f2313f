// SPDX-License-Identifier: MIT
#include "injector/payload_file.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "injector/inject.h"

#define NAME "libtm-payload.so"

/* Relative to the folder of the executable: the build tree, then what CMake installs. */
static const char *const places[] = {"../lib/" NAME, "../" TM_PAYLOAD_INSTALL_DIR "/" NAME};

GBytes *tm_payload_file_read(GError **error)
{
    const char *given = g_getenv("TM_PAYLOAD");
    g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);

    /* Without /proc: the name that it was called by. */
    if (!exe)
        exe = realpath((const char *)(uintptr_t)getauxval(AT_EXECFN), NULL);

    if (given && *given)
        return tm_inject_read_payload(given, error);
    for (gsize i = 0; exe && i < G_N_ELEMENTS(places); i++) {
        g_autofree char *folder = g_path_get_dirname(exe);
        g_autofree char *path = g_build_filename(folder, places[i], NULL);
        if (access(path, F_OK) == 0)
            return tm_inject_read_payload(path, error);
    }
    g_set_error(error, TM_ATTACH_ERROR, TM_ATTACH_ERROR_PAYLOAD,
                NAME " was not found beside tm-attach (%s): install it, or name it in TM_PAYLOAD",
                exe ? exe : "whose own place is unknown");
    return NULL;
}
