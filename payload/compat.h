// SPDX-License-Identifier: MIT
/*
 * Names of libc functions as old C libraries have them.
 *
 * The payload is built once and loaded into programs whose libc may be older
 * (glibc 2.17 on) or another one (musl). glibc gave functions that moved from
 * libpthread and libdl into libc a new version in 2.32 to 2.34; a reference to
 * the first version binds on both sides of the move. Every source of the
 * payload gets this header by a compiler option; the sanitized test build does
 * not, because a sanitizer intercepts the default versions only.
 *
 * Not to be used in the payload, because no old name exists or because the
 * headers of a newer libc rename them: stat and its kin (tm_sys_fstat in
 * payload/ownfd.h), strtol and scanf (C23 renames them), getrandom, renameat2,
 * pthread_getattr_np.
 */
#pragma once

#if defined(__x86_64__)
#define TM_GLIBC_FIRST "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define TM_GLIBC_FIRST "GLIBC_2.17"
#endif

#if defined(__linux__) && defined(TM_GLIBC_FIRST)
#include <features.h>
#ifdef __GLIBC__
#define TM_OLD_NAME(name) __asm__(".symver " #name "," #name "@" TM_GLIBC_FIRST)
TM_OLD_NAME(pthread_create);
TM_OLD_NAME(pthread_join);
TM_OLD_NAME(pthread_detach);
TM_OLD_NAME(pthread_key_create);
TM_OLD_NAME(pthread_key_delete);
TM_OLD_NAME(pthread_setspecific);
TM_OLD_NAME(pthread_getspecific);
TM_OLD_NAME(pthread_once);
TM_OLD_NAME(pthread_atfork);
TM_OLD_NAME(pthread_kill);
TM_OLD_NAME(pthread_sigmask);
TM_OLD_NAME(pthread_mutex_trylock);
TM_OLD_NAME(dlopen);
TM_OLD_NAME(dlclose);
TM_OLD_NAME(dlsym);
TM_OLD_NAME(dlerror);
TM_OLD_NAME(dladdr);
TM_OLD_NAME(dl_iterate_phdr);
#undef TM_OLD_NAME
#endif
#endif
