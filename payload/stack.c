// SPDX-License-Identifier: MIT
#include "payload/stack.h"

#include <string.h>

#include "payload/mem.h"
#include "payload/state.h"
#include "payload/tracer.h"

enum {
    /* As many as tm_stack_follow looks at, one of the interpreter's own before each; twice. */
    PATH_FRAMES = 2 * (TM_TRACEBACK_LIMIT_MAX + TM_TRACEBACK_LIMIT_MAX / 2 + 8),
    CAPACITY = 2 * PATH_FRAMES,
};
_Static_assert(CAPACITY <= UINT16_MAX, "an index has 16 bits");

bool tm_stack_init(struct tm_stack *stack)
{
    stack->capacity = CAPACITY;
    stack->entries = tm_mem_map_sparse(CAPACITY * sizeof(*stack->entries));
    stack->path = tm_mem_map_sparse(PATH_FRAMES * sizeof(*stack->path));
    if (stack->entries == NULL || stack->path == NULL)
        return false;
    tm_stack_clear(stack);
    return true;
}

void tm_stack_done(struct tm_stack *stack)
{
    tm_mem_unmap_sparse(stack->entries, CAPACITY * sizeof(*stack->entries));
    tm_mem_unmap_sparse(stack->path, PATH_FRAMES * sizeof(*stack->path));
    *stack = (struct tm_stack){0};
}

size_t tm_stack_resident_bytes(const struct tm_stack *stack)
{
    return tm_mem_resident_bytes(stack->entries, CAPACITY * sizeof(*stack->entries), NULL) +
           tm_mem_resident_bytes(stack->path, PATH_FRAMES * sizeof(*stack->path), NULL);
}

void tm_stack_clear(struct tm_stack *stack)
{
    stack->top = stack->entries;
    stack->answered = NULL;
    stack->entries[0] = (struct tm_stack_entry){.frame = TM_STACK_MORE};
}

void tm_stack_set_limit(struct tm_stack *stack, uint32_t limit)
{
    stack->power = (struct tm_fingerprint){1, 1};
    for (uint32_t i = 0; i < limit; i++) {
        stack->power.hash1 *= TM_HASH_K1;
        stack->power.hash2 *= TM_HASH_K2;
    }
    stack->limit = limit;
}

void tm_stack_forget_nodes(struct tm_stack *stack, uint32_t epoch)
{
    for (struct tm_stack_entry *entry = stack->entries + 1; entry <= stack->top; entry++)
        entry->node = TM_NONE;
    stack->nodes_epoch = epoch;
}

__attribute__((noinline)) struct tm_stack_entry *
tm_stack_follow_any(struct tm_stack *stack, tm_frame_ref frame, uint32_t limit)
{
    return tm_stack_follow(stack, &tm_layout, frame, limit);
}
