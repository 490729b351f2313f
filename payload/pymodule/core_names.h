// SPDX-License-Identifier: MIT
/*
 * The analyzer's core inside the payload: the same sources, compiled once more.
 * Its intern tables and the engine's have names in common, so those of the core
 * get others here. Every source that uses the core is compiled with this header
 * first; none of them may include payload/intern.h.
 */
#pragma once

#define tm_intern tm_core_intern
#define tm_intern_init tm_core_intern_init
#define tm_intern_init_strings tm_core_intern_init_strings
#define tm_intern_get tm_core_intern_get
#define tm_intern_done tm_core_intern_done
#define tm_filter tm_core_filter
#define tm_filter_init tm_core_filter_init
#define tm_filter_done tm_core_filter_done
#define tm_filter_flags tm_core_filter_flags
#define tm_filter_status tm_core_filter_status
#define tm_filter_pattern_matches tm_core_filter_pattern_matches
#define tm_filter_keeps tm_core_filter_keeps
#define tm_filters_apply tm_core_filters_apply

/* One thread is enough in somebody else's process: the core asks for the number of processors. */
#ifdef TM_CORE_SOURCE
#include <unistd.h>
#define sysconf(name) ((void)(name), 1L)
#endif
