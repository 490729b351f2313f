// SPDX-License-Identifier: MIT
#include "payload/native/trie.h"

#include <string.h>

#include "payload/hash.h"
#include "payload/mem.h"

static const size_t steps_bytes = TM_NATIVE_STEPS * sizeof(struct tm_native_step);
static const size_t slots_bytes = TM_NATIVE_STEP_SLOTS * sizeof(uint32_t);

static void plant(struct tm_native_trie *trie)
{
    trie->steps[TM_NATIVE_ROOT] = (struct tm_native_step){.hash1 = 1, .hash2 = 2};
    trie->steps[TM_NATIVE_ROOT_NO_PYTHON] = (struct tm_native_step){.hash1 = 3, .hash2 = 4};
    trie->used = TM_NATIVE_ROOTS;
}

bool tm_native_trie_init(struct tm_native_trie *trie)
{
    if (trie->steps == NULL)
        trie->steps = tm_mem_map_sparse(steps_bytes);
    if (trie->slots == NULL)
        trie->slots = tm_mem_map_sparse(slots_bytes);
    if (trie->steps == NULL || trie->slots == NULL)
        return false;
    if (trie->used == 0)
        plant(trie);
    return true;
}

void tm_native_trie_done(struct tm_native_trie *trie)
{
    tm_mem_unmap_sparse(trie->steps, steps_bytes);
    tm_mem_unmap_sparse(trie->slots, slots_bytes);
    *trie = (struct tm_native_trie){0};
}

/* The slot of a child, or the empty one where it belongs. */
static uint32_t *slot_of(const struct tm_native_trie *trie, uint32_t parent, uint64_t word)
{
    uint32_t i = tm_hash_fold(tm_hash_mix(word, parent));
    for (;; i++) {
        uint32_t *slot = &trie->slots[i & (TM_NATIVE_STEP_SLOTS - 1)];
        const struct tm_native_step *step = &trie->steps[*slot];
        if (*slot == 0 || (step->parent == parent && step->word == word))
            return slot;
    }
}

/* Not by giving the pages back, which a locked process refuses. The youngest goes first: the way to
 * it leads over older ones only. */
void tm_native_trie_forget(struct tm_native_trie *trie)
{
    if (trie->steps == NULL || trie->slots == NULL)
        return;
    for (uint32_t i = trie->used; i-- > TM_NATIVE_ROOTS;)
        *slot_of(trie, trie->steps[i].parent, trie->steps[i].word) = 0;
    memset(trie->steps, 0, trie->used * sizeof(*trie->steps));
    plant(trie);
}

__attribute__((noinline)) struct tm_native_step *
tm_native_trie_find(struct tm_native_trie *trie, struct tm_native_step *step, uint64_t word)
{
    uint32_t id = *slot_of(trie, (uint32_t)(step - trie->steps), word);
    if (id == 0)
        return NULL;
    step->next = id;
    return &trie->steps[id];
}

struct tm_native_step *tm_native_trie_add(struct tm_native_trie *trie, struct tm_native_step *step,
                                          uint64_t word)
{
    uint32_t parent = (uint32_t)(step - trie->steps);
    uint32_t *slot = slot_of(trie, parent, word);
    if (*slot == 0) {
        if (trie->used == TM_NATIVE_STEPS)
            return NULL;
        *slot = trie->used++;
        trie->steps[*slot] = (struct tm_native_step){
            .word = word,
            .hash1 = tm_hash_mix(step->hash1, word),
            .hash2 = tm_hash_rotl(step->hash2, 23) + word * TM_HASH_K2,
            .parent = parent,
        };
    }
    step->next = *slot;
    return &trie->steps[*slot];
}

size_t tm_native_trie_resident_bytes(const struct tm_native_trie *trie)
{
    return tm_mem_resident_bytes(trie->steps, steps_bytes, NULL) +
           tm_mem_resident_bytes(trie->slots, slots_bytes, NULL);
}
