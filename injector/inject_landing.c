// SPDX-License-Identifier: MIT
/*
 * A program may do little else than allocate, in all its threads, and be met inside malloc however
 * often one looks. There a thread can be caught on its way out: its return address out of malloc
 * is replaced by that of code of ours (tm_stub_land), which calls pthread_create where malloc's
 * locks are free again, and goes on to where the thread was to return.
 *
 * A hardware breakpoint on the return address would do the same, but sends the thread a SIGTRAP
 * that kills the program where the injector dies before it is hit. Here nothing is left to do for
 * anybody once the address is replaced.
 */
#include "injector/inject_landing.h"

#include <string.h>

#include "injector/inject_safe.h"

/* Functions that return to their caller, once, on the same stack: so nothing like fork is here. */
static const char *const allocator_names[] = {
    "malloc",   "calloc", "realloc", "reallocarray",  "free",        "cfree",
    "memalign", "valloc", "pvalloc", "aligned_alloc", "malloc_trim", "posix_memalign",
};

bool tm_landing_name_is_allocator(const char *name)
{
    if (g_str_has_prefix(name, "__GI_"))
        name += 5;
    name += strspn(name, "_");
    if (g_str_has_prefix(name, "libc_"))
        name += 5;
    for (size_t i = 0; i < G_N_ELEMENTS(allocator_names); i++) {
        if (strcmp(name, allocator_names[i]) == 0)
            return true;
    }
    return false;
}

static bool is_allocator(tm_unwinder *unwinder, const struct tm_frame *frame)
{
    uint64_t value = 0;
    const tm_symbols *functions =
        tm_unwinder_functions_at(unwinder, frame->exact_pc ? frame->pc : frame->pc - 1, &value);
    const struct tm_symbol *found = functions != NULL ? tm_symbols_find(functions, value) : NULL;
    for (const struct tm_symbol *at = found; found != NULL && at >= functions->items; at--) {
        if (at->value != found->value)
            break;
        if (tm_landing_name_is_allocator(at->name))
            return true;
    }
    return false;
}

static bool is_safe_from(tm_unwinder *unwinder, const GArray *frames, unsigned first)
{
    g_autoptr(GArray) rest = g_array_new(FALSE, FALSE, sizeof(struct tm_frame));
    g_array_append_vals(rest, &g_array_index(frames, struct tm_frame, first), frames->len - first);
    return g_array_index(rest, struct tm_frame, 0).kind == TM_FRAME_OTHER &&
           tm_inject_judge(unwinder, rest, true, -1) == TM_VERDICT_SAFE;
}

bool tm_landing_find(tm_unwinder *unwinder, const GArray *frames, struct tm_landing *ret)
{
    for (unsigned i = 0; i + 1 < frames->len; i++) {
        const struct tm_frame *frame = &g_array_index(frames, struct tm_frame, i);
        const struct tm_frame *caller = frame + 1;
        struct tm_landing landing = {.slot_addr = caller->sp - sizeof(uint64_t)};
        /* A handler may have come in anywhere. */
        if (frame->is_signal)
            return false;
        if ((frame->kind != TM_FRAME_LIBC && frame->kind != TM_FRAME_MALLOC) ||
            !is_allocator(unwinder, frame) || !is_safe_from(unwinder, frames, i + 1) ||
            !tm_unwinder_read(unwinder, landing.slot_addr, &landing.return_addr,
                              sizeof(landing.return_addr)) ||
            landing.return_addr != caller->pc)
            continue;
        *ret = landing;
        return true;
    }
    return false;
}
