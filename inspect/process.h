// SPDX-License-Identifier: MIT
/* What /proc says of a process or thread, without touching it. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct tm_process {
    pid_t pid;
    pid_t tgid;       /* differs from pid for a thread that is not the leader */
    pid_t tracer_pid; /* 0: not traced */
    pid_t ns_pid;     /* its number in its own PID namespace: of the process, not of a thread */
    pid_t ns_tid;     /* the number of the thread that was read, there */
    char state;       /* R S D T t Z X I, as /proc/PID/stat has it */
    bool kernel_thread;
    uint64_t start_ticks; /* after boot: with pid, it names a process for good */
    char name[64];
    uint32_t uids[4]; /* real, effective, saved, filesystem */
    uint32_t gids[4];
    uint64_t cap_permitted;
    uint64_t cap_effective;
    int seccomp;       /* 0 off, 1 strict, 2 filters */
    bool shadow_stack; /* user shadow stacks are on (x86, Linux 6.6) */
    int threads;
};

/* Reads /proc/PID/status and stat. TM_INSPECT_ERROR_GONE where there is no such process. */
bool tm_process_read(pid_t pid, struct tm_process *ret, GError **error);
/* True for a zombie of which no thread lives. */
bool tm_process_has_ended(const struct tm_process *process);
/* kernel.yama.ptrace_scope, or -1 where there is no Yama. */
int tm_process_yama_scope(void);
/* True where pid's namespace of that kind ("pid", "mnt", "user", "net") is the caller's. */
bool tm_process_same_namespace(pid_t pid, const char *kind);
/* The number under which /proc, process_vm_readv and the like show what the threads of pid share:
 * pid itself, or, where its main thread has ended and others live on (the kernel takes memory and
 * descriptors from the main thread then), that of a living thread. pid where there is none. */
pid_t tm_process_living(pid_t pid);
/* The state letter of one thread; 0 where it is gone. */
char tm_process_thread_state(pid_t pid, pid_t tid);
/* The thread ids of pid, ascending; NULL and *error where it is gone. Elements are pid_t. */
GArray *tm_process_threads(pid_t pid, GError **error);
