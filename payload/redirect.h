// SPDX-License-Identifier: MIT
/*
 * Hooks for a 2.7 that has no allocator API: the entries of PyObject_Malloc,
 * PyObject_Realloc and PyObject_Free become jumps to ours, and their first
 * instructions run elsewhere. To the rest of the payload it looks like the API:
 * the obj domain has these functions, the raw and mem domains are empty.
 *
 * These functions are called under the GIL only. Who changes them holds it, so
 * that no thread is inside; where the kernel says that the others are is
 * compared with that all the same (bystanders.h). x86-64 only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "format/state.h" /* TM_REDIRECT_UNSEEN */
#include "payload/pyapi.h"

/* Reads the functions and prepares the code that jumps to and fro; changes none of Python's. False
 * with a message where it cannot be done safely. GIL. Idempotent. */
bool tm_redirect_prepare(char *message, size_t message_bytes);
/* Gives up what prepare made. The entries are the originals, and no thread can be on its way. */
void tm_redirect_done(void);

/* Looks where the other threads are, for at most timeout_ms. True: none is inside the code that
 * would change, and tm_redirect_set need not look again until `forget`. The GIL, held from here
 * until then. */
bool tm_redirect_look(int timeout_ms);
void tm_redirect_forget_look(void);

/* PyMem_GetAllocator and PyMem_SetAllocator. Where the entries are no longer as they were left,
 * get gives functions that are neither those that were set nor the originals. GIL. */
void tm_redirect_get(int domain, struct tm_py_allocator *allocator);
void tm_redirect_set(int domain, struct tm_py_allocator *allocator);

/* Why the last tm_redirect_set of the obj domain left the entries as they were; "": it did not. */
const char *tm_redirect_problem(void);
