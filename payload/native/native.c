// SPDX-License-Identifier: MIT
#include "payload/native/native.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "payload/hooks.h"
#include "payload/mem.h"
#include "payload/native/loader.h"
#include "payload/pyapi.h"
#include "payload/tracer.h"

uint32_t tm_native_depth;
struct tm_native_lane tm_native_lanes[TM_LANES];
struct tm_native_map *tm_native_map;
uint64_t tm_native_eval_start, tm_native_eval_end;

static struct tm_native_map *prepared; /* agent thread */

/* Up to 3.9 nothing on the stack tells which C frame runs Python code: the function's own range
 * does. */
static void find_eval(void)
{
    tm_native_eval_start = (uint64_t)tm_pyapi_find("_PyEval_EvalFrameDefault");
    tm_native_eval_end = tm_native_eval_start;
    if (tm_native_eval_start != 0)
        tm_native_eval_end = tm_native_function_end(tm_native_eval_start);
}

int tm_native_prepare(char *message, size_t message_bytes)
{
#if !defined(__x86_64__)
    snprintf(message, message_bytes, "native frames are known on x86-64 only");
    return -ENOTSUP;
#endif
    tm_native_loader_setup();
    tm_native_map_free(prepared);
    prepared = tm_native_map_build(tm_native_map);
    if (prepared == NULL) {
        snprintf(message, message_bytes,
                 "no memory for the tables of native frames, or the interpreter is shutting down");
        return -ENOMEM;
    }
    tm_native_stack_setup();
    find_eval();
    return 0;
}

void tm_native_lane_forget(struct tm_native_lane *lane)
{
    if (lane->pcs != NULL)
        memset(lane->pcs, 0, TM_NATIVE_PCS * sizeof(*lane->pcs));
    tm_native_record_clear(&lane->record);
}

static void forget_addresses(void)
{
    for (uint32_t lane = 0; lane < tm_lanes_used; lane++)
        tm_native_lane_forget(&tm_native_lanes[lane]);
    tm_traceback_flush();
}

static bool lanes_up(void)
{
    for (uint32_t i = 0; i < tm_lanes_used; i++) {
        struct tm_native_lane *lane = &tm_native_lanes[i];
        if (lane->pcs == NULL)
            lane->pcs = tm_mem_map(TM_NATIVE_PCS * sizeof(*lane->pcs));
        if (lane->items == NULL)
            lane->items = tm_mem_map(TM_NATIVE_ITEMS * sizeof(*lane->items));
        if (lane->path == NULL)
            lane->path = tm_mem_map(TM_NATIVE_ITEMS * sizeof(*lane->path));
        lane->main_stack = (struct tm_native_stack){0};
        lane->record.pcs = lane->pcs;
        lane->record.look_up = tm_native_look_up;
        lane->record.data = lane;
        if (!tm_native_record_init(&lane->record) || lane->pcs == NULL || lane->items == NULL ||
            lane->path == NULL)
            return false;
    }
    return true;
}

bool tm_native_enable_locked(uint32_t depth)
{
    if (depth == tm_native_depth)
        return true;
    if (depth != 0 && ((prepared == NULL && tm_native_map == NULL) || !lanes_up()))
        return false;
    if (prepared != NULL && depth != 0) {
        struct tm_native_map *old = tm_native_map;
        tm_native_map = prepared;
        prepared = NULL;
        tm_native_map_free(old);
    }
    tm_native_choose_known();
    tm_native_depth = depth;
    forget_addresses();
    return true;
}

/* The store is held. */
static void refresh(void)
{
    int gil;
    struct tm_native_map *fresh = tm_native_map_build(tm_native_map);
    if (fresh == NULL)
        return; /* the old one stays true for what it knows; tried again next time */
    if (tm_hooks_gil_take(&gil) < 0) {
        tm_native_map_free(fresh);
        return;
    }
    tm_store_stop();
    struct tm_native_map *old = fresh;
    if (tm_native_depth != 0) {
        old = tm_native_map;
        tm_native_map = fresh;
        forget_addresses();
    }
    tm_store_go();
    tm_hooks_gil_drop(gil);
    tm_native_map_free(old);
}

void tm_native_refresh(void)
{
    if (tm_native_depth == 0 || !tm_tracer_hold())
        return;
    if (tm_native_map_is_stale(tm_native_map))
        refresh();
    tm_tracer_unhold();
}

void tm_native_done(void)
{
    tm_native_depth = 0;
    for (int i = 0; i < TM_LANES; i++) {
        struct tm_native_lane *lane = &tm_native_lanes[i];
        tm_mem_unmap(lane->pcs, TM_NATIVE_PCS * sizeof(*lane->pcs));
        tm_mem_unmap(lane->items, TM_NATIVE_ITEMS * sizeof(*lane->items));
        tm_mem_unmap(lane->path, TM_NATIVE_ITEMS * sizeof(*lane->path));
        tm_native_record_done(&lane->record);
        *lane = (struct tm_native_lane){0};
    }
    tm_native_map_free(tm_native_map);
    tm_native_map_free(prepared);
    tm_native_map = prepared = NULL;
    tm_native_files_done();
}

size_t tm_native_resident_bytes(void)
{
    size_t total = 0;
    for (int i = 0; i < TM_LANES; i++)
        if (tm_native_lanes[i].record.entries != NULL)
            total += tm_native_record_resident_bytes(&tm_native_lanes[i].record);
    return total;
}

void tm_native_abandon(void)
{
    tm_native_depth = 0;
    memset(tm_native_lanes, 0, sizeof(tm_native_lanes));
    tm_native_map = prepared = NULL;
    tm_native_files_abandon();
}

/* ---- sites ---- */

static uint32_t intern_text_locked(const char *text)
{
    return tm_intern_string_locked(text, (uint32_t)strlen(text));
}

static uint32_t cut_site_locked(uint64_t cut)
{
    static const char *const reasons[TM_NATIVE_CUTS] = {
        [TM_NATIVE_CUT_NO_TABLE] = "[native stack cut: no unwind table]",
        [TM_NATIVE_CUT_NO_MODULE] = "[native stack cut: code of no known module]",
        [TM_NATIVE_CUT_STACK] = "[native stack cut: not a known stack]",
    };
    struct tm_site site = {.file = TM_NONE, .flags = TM_SITE_NATIVE};
    site.function = intern_text_locked(reasons[cut]);
    return site.function == TM_NONE ? TM_NONE : tm_intern_site_locked(&site);
}

uint32_t tm_native_site_locked(uint64_t pc, const struct tm_native_map *map)
{
    /* A word of the stack was 0 where a return address was looked for. */
    if (pc == 0)
        pc = TM_NATIVE_CUT_NO_MODULE;
    if (pc < TM_NATIVE_CUTS)
        return cut_site_locked(pc);
    const struct tm_native_range *range = map ? tm_native_map_find(map, pc) : NULL;
    struct tm_site site = {
        .file = TM_NONE,
        .function = TM_NONE,
        .address = pc,
        .flags = TM_SITE_NATIVE,
    };
    if (range != NULL) {
        /* Which module it was, plus 1: another one may come to this address. */
        site.first_line = (int32_t)range->file + 1;
        site.file = intern_text_locked((const char *)tm_native_file_at(range->file)->path_addr);
        if (site.file == TM_NONE)
            return TM_NONE;
    }
    return tm_intern_site_locked(&site);
}
