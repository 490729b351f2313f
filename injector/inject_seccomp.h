// SPDX-License-Identifier: MIT
/* Would a thread's seccomp filters end the process at a system call that an attach makes in it? */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The tracee is stopped. False where one of its filters answers a system call that is needed by
 * ending the thread or the process or by SIGSYS: *ret_number is that call. Filters that cannot be
 * read (it takes CAP_SYS_ADMIN, no filter of one's own, and CONFIG_CHECKPOINT_RESTORE) are taken
 * for harmless, as those of containers are: they answer with an error number. */
bool tm_seccomp_allows(pid_t tid, long *ret_number);

/* What a filter says to a system call with these arguments; the kernel has checked the program when
 * it was installed, so that there is an answer. Allowed, where it has instructions unknown here. */
uint32_t tm_seccomp_evaluate(const struct sock_filter *program, size_t count, long number,
                             const uint64_t args[6]);
