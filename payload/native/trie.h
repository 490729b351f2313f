// SPDX-License-Identifier: MIT
/*
 * The runs of native frames that were met, from the most recent frame outwards,
 * as a tree: a step stands for the return addresses that lead to it, and holds
 * how its last frame is left and a fingerprint of all of them. A run that was
 * walked before is walked again by comparing one word a frame with what followed
 * the last time: no look-up in a table, no hash.
 *
 * Belongs to a lane and is guarded by its lock. It must be forgotten whenever
 * addresses may mean something else: when a map of modules is published or the
 * loader has been at work.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "payload/native/rule.h"

struct tm_native_step {
    uint64_t word;         /* from the parent to here: a return address, or why the stack is cut */
    uint64_t hash1, hash2; /* of all words up to here */
    struct tm_native_rule rule;
    uint32_t parent;
    uint32_t next; /* the child that was met last; 0: none */
};

/* Two trees in one: which C frames run Python code cannot be told where no Python frames are left.
 */
enum tm_native_root { TM_NATIVE_ROOT = 0, TM_NATIVE_ROOT_NO_PYTHON = 1, TM_NATIVE_ROOTS = 2 };

enum { TM_NATIVE_STEPS = 1 << 17, TM_NATIVE_STEP_SLOTS = 1 << 18 };

struct tm_native_trie {
    struct tm_native_step *steps; /* TM_NATIVE_STEPS; the first are the roots */
    uint32_t *slots;              /* TM_NATIVE_STEP_SLOTS: numbers of steps by hash; 0: empty */
    uint32_t used;                /* steps, the roots included */
};

bool tm_native_trie_init(struct tm_native_trie *trie);
void tm_native_trie_done(struct tm_native_trie *trie);
void tm_native_trie_forget(struct tm_native_trie *trie);
size_t tm_native_trie_resident_bytes(const struct tm_native_trie *trie);

/* Looks further than at the child that was met last. NULL: never met. */
struct tm_native_step *tm_native_trie_find(struct tm_native_trie *trie, struct tm_native_step *step,
                                           uint64_t word);
/* Finds or adds it. NULL: the tree is full. */
struct tm_native_step *tm_native_trie_add(struct tm_native_trie *trie, struct tm_native_step *step,
                                          uint64_t word);

/* word is not 0. NULL: never met. */
__attribute__((always_inline)) static inline struct tm_native_step *
tm_native_trie_child(struct tm_native_trie *trie, struct tm_native_step *step, uint64_t word)
{
    struct tm_native_step *child = &trie->steps[step->next];
    if (__builtin_expect(child->word == word, 1))
        return child;
    return tm_native_trie_find(trie, step, word);
}
