// SPDX-License-Identifier: MIT
/*
 * The tables that only grow while tracing is on: strings, sites and tracebacks
 * (nodes of a prefix tree), each kept once. They are off the hot path: hooks come
 * here when their caches miss. Every function whose name ends in _locked needs
 * tm_intern_lock; reading elements by id needs no lock.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "payload/state.h"
#include "payload/vec.h"

extern pthread_mutex_t tm_intern_lock;
/* By node: address of the GIL lane's counter of its most recent site. */
extern struct tm_vec tm_intern_node_counters TM_HIDDEN;

bool tm_intern_init(void);
/* Forgets everything and gives the memory back. */
void tm_intern_done(void);
/* In a forked child: the memory was not inherited; forget it without unmapping. */
void tm_intern_abandon(void);

/* Bytes of the tables and arenas that hold nothing yet. */
uint64_t tm_intern_free_bytes(void);

/* Each returns the id, or TM_NONE where memory is short. */
uint32_t tm_intern_string_locked(const char *bytes, uint32_t n_bytes);
uint32_t tm_intern_site_locked(const struct tm_site *site);
/* The traceback `parent` with `site` called from it. */
uint32_t tm_intern_node_locked(uint32_t parent, uint32_t site);
/* The traceback of these sites, most recent first. Takes the lock itself; where threads run at once
 * (more than one shared lane), only for what is new. */
uint32_t tm_intern_path(const uint32_t *sites, uint32_t n_sites);

static inline struct tm_string *tm_intern_string_at(uint32_t id)
{
    return tm_vec_at(&tm_state_export.strings, id, sizeof(struct tm_string));
}

static inline struct tm_site *tm_intern_site_at(uint32_t id)
{
    return tm_vec_at(&tm_state_export.sites, id, sizeof(struct tm_site));
}

static inline struct tm_node *tm_intern_node_at(uint32_t id)
{
    return tm_vec_at(&tm_state_export.nodes, id, sizeof(struct tm_node));
}
