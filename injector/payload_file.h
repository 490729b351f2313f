// SPDX-License-Identifier: MIT
/* Where libtm-payload.so is: $TM_PAYLOAD, the build tree, or the place of installation. */
#pragma once

#include <glib.h>

/* Its contents, checked. Free with g_bytes_unref. TM_ATTACH_ERROR_PAYLOAD where there is none. */
GBytes *tm_payload_file_read(GError **error);
