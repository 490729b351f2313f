// SPDX-License-Identifier: MIT
/*
 * A connection to the agent in a traced process: tm-attach's side of
 * format/control.h. Needs the right to ptrace the process, and stops nothing.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "format/control.h"
#include "format/state.h"

#define TM_CONTROL_ERROR (tm_control_error_quark())

enum tm_control_error {
    TM_CONTROL_ERROR_NOT_ATTACHED, /* no payload, or none with an agent */
    TM_CONTROL_ERROR_PERMISSION,   /* the kernel does not let us copy the descriptor */
    TM_CONTROL_ERROR_KERNEL,       /* no pidfd_getfd: Linux before 5.6 */
    TM_CONTROL_ERROR_GONE,         /* the process, or its agent, ended meanwhile */
    TM_CONTROL_ERROR_NO_ANSWER,    /* not within the time-out */
    TM_CONTROL_ERROR_PROTOCOL,     /* not understood by one side */
    TM_CONTROL_ERROR_OPTION,       /* the agent does not take a value */
    TM_CONTROL_ERROR_STATE,        /* not possible now */
    TM_CONTROL_ERROR_OUTPUT,       /* a snapshot cannot be written */
    TM_CONTROL_ERROR_PYTHON,       /* the interpreter says no */
    TM_CONTROL_ERROR_RESOURCE,     /* memory or descriptors of the process are spent */
    TM_CONTROL_ERRORS,
};

GQuark tm_control_error_quark(void);
/* The exit status of tm-attach for a code, as tm-attach(1) documents. */
int tm_control_error_exit_status(int code);

typedef struct tm_client tm_client;

/* Connects to the agent that `state` (a copy of the process' struct tm_state) tells of. */
tm_client *tm_client_connect(pid_t pid, const struct tm_state *state, GError **error);
/* Finds the payload of pid first. Its struct tm_state is at *ret_state_addr then (NULL: not
 * wanted).
 */
tm_client *tm_client_connect_pid(pid_t pid, uint64_t *ret_state_addr, GError **error);
void tm_client_free(tm_client *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(tm_client, tm_client_free)

/* To be called all the time while an answer is waited for; it takes a moment. */
void tm_client_set_waiting(tm_client *client, void (*waiting)(void *arg), void *arg);

/* Begins a request; put keys into it, then call. Borrowed until the next request. */
struct tm_msg_buf *tm_client_request(tm_client *client, enum tm_msg_type type);
/* Sends it, with a descriptor (-1: none), and waits for its answer. An ERROR of the agent becomes
 * *error. */
bool tm_client_call(tm_client *client, int fd, int timeout_ms, GError **error);
/* Of the last answer: borrowed until the next call; NULL or 0 where the key is missing. */
const char *tm_client_get(const tm_client *client, const char *key);
uint64_t tm_client_get_u64(const tm_client *client, const char *key);
bool tm_client_has(const tm_client *client, const char *key);
/* The file that `key` of the last answer names, with the directory that the agent writes in, as
 * seen from here: the target's own path for it may mean nothing in our mounts. To be freed; NULL
 * where the key is missing. */
char *tm_client_dup_path(const tm_client *client, const char *key);
