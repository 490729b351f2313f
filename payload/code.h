// SPDX-License-Identifier: MIT
/*
 * From a frame to the interned site: file, function, line. Calls one function of
 * the C API, PyCode_Addr2Line, which allocates nothing (CPython 3.6 to 3.14,
 * Objects/codeobject.c). The frame's thread is the caller's own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/frames.h"

/* Learns how str objects of this interpreter keep their text. GIL. False: it cannot tell. */
bool tm_code_setup(char *message, size_t message_bytes);

/* Interns the site of a frame. tm_intern_lock is held. TM_NONE where memory is short. */
uint32_t tm_code_site_locked(tm_frame_ref frame);

/* Text of a str object as UTF-8 into buf (surrogates kept). The number of bytes, cut to fit. */
size_t tm_code_text(uint64_t str, char *buf, size_t buf_bytes);

/* Bytes as Python 3 decodes file names: what is no UTF-8 becomes U+DC80 to U+DCFF, three bytes here
 * for one. The number of bytes in buf, cut to fit. */
size_t tm_code_escape(const char *text, size_t length, char *buf, size_t buf_bytes);

/* Names a file (co_filename) whose frames are the tool's own: see TM_SITE_OWN_BIT. A handful can
 * be named; they stay. False: no room, or the name is too long. */
bool tm_code_add_own(const char *name, size_t name_bytes);
/* Whether a site is in such a file. Reads interned elements only. */
bool tm_code_is_own(uint32_t site);
