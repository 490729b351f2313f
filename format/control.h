// SPDX-License-Identifier: MIT
/*
 * The control protocol between tm-attach and the agent thread in the target.
 *
 * The agent holds both ends of one SOCK_SEQPACKET socketpair. A client takes a
 * copy of the client end with pidfd_getfd (so only who may ptrace the process
 * can), makes a socketpair of its own, and sends one of its ends in a HELLO
 * with SCM_RIGHTS. All further talk happens on that private pair: clients
 * never see each other's answers, and garbage on the shared end harms nobody.
 *
 * A message is one packet: struct tm_msg, then body_bytes of body. The body is
 * a sequence of NUL-terminated "key=value" strings; values may hold any byte
 * but NUL. Unknown keys are ignored by both sides. docs/PROTOCOL.md lists the
 * keys. Functions here use libc only and allocate nothing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_MSG_MAGIC 0x31434d54u /* "TMC1" */
#define TM_MSG_MAX_BYTES 32768u  /* of a whole packet */

enum tm_msg_type {
    /* client to agent */
    TM_MSG_HELLO = 1, /* on the shared end; carries the private socket */
    TM_MSG_START = 2, /* enable tracing and schedule the task; SCM_RIGHTS: directory */
    TM_MSG_STATUS = 3,
    TM_MSG_SNAPSHOT = 4, /* now; SCM_RIGHTS: a directory, optional */
    TM_MSG_SET = 5,      /* new options while running; the keys of START */
    TM_MSG_DETACH = 6,
    /* agent to client */
    TM_MSG_OK = 64,
    TM_MSG_ERROR = 65, /* keys: error (enum tm_ctl_error), message */
    TM_MSG_EVENT = 66, /* e.g. a snapshot that was written or failed, to who asked for events */
};

enum tm_ctl_error {
    TM_CTL_E_PROTOCOL = 1, /* not understood */
    TM_CTL_E_OPTION = 2,   /* an option's value is bad */
    TM_CTL_E_STATE = 3,    /* not possible now, e.g. not tracing */
    TM_CTL_E_IO = 4,       /* the snapshot could not be written */
    TM_CTL_E_PYTHON = 5,   /* Python said no: GIL, finalizing, layout */
    TM_CTL_E_RESOURCE = 6,
};

struct tm_msg {
    uint32_t magic; /* TM_MSG_MAGIC */
    uint16_t type;  /* enum tm_msg_type */
    uint16_t flags; /* 0 */
    uint32_t seq;   /* an answer repeats the question's */
    uint32_t body_bytes;
};

_Static_assert(sizeof(struct tm_msg) == 16, "struct tm_msg is a wire format");

/* A packet under construction: header and body in one caller-owned buffer. */
struct tm_msg_buf {
    size_t used_bytes; /* header included */
    bool overflow;     /* something did not fit: do not send */
    union {
        struct tm_msg head;
        char bytes[TM_MSG_MAX_BYTES];
    };
};

void tm_msg_init(struct tm_msg_buf *buf, enum tm_msg_type type, uint32_t seq);
void tm_msg_put(struct tm_msg_buf *buf, const char *key, const char *value);
void tm_msg_put_u64(struct tm_msg_buf *buf, const char *key, uint64_t value);
void tm_msg_put_i64(struct tm_msg_buf *buf, const char *key, int64_t value);
/* Value borrowed from the packet; NULL where the key is missing or the body is not well formed. */
const char *tm_msg_get(const struct tm_msg_buf *buf, const char *key);
/* False where the key is missing or not a whole decimal number; *ret is then untouched. */
bool tm_msg_get_u64(const struct tm_msg_buf *buf, const char *key, uint64_t *ret);
/* Checks magic, lengths and that the body ends with NUL. */
bool tm_msg_valid(const struct tm_msg_buf *buf, size_t received_bytes);

/* Sends one packet. fd_to_pass < 0: none. Returns 0 or -errno (never raises SIGPIPE). */
int tm_msg_send(int sock, const struct tm_msg_buf *buf, int fd_to_pass);
/* Receives one packet. *ret_fd is -1 or a descriptor that the caller must close (close-on-exec);
 * a packet that is not valid gives -EBADMSG, the end of the stream -EPIPE, a time-out -ETIMEDOUT.
 * timeout_ms < 0 waits for ever. */
int tm_msg_recv(int sock, struct tm_msg_buf *buf, int *ret_fd, int timeout_ms);
