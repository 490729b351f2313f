// SPDX-License-Identifier: MIT
/* Finds the payload's state in a process or core: the module by its name, the symbol in what of the
 * module is mapped, else the header by what it begins with. */
#include "format/state.h"
#include "inspect/error.h"
#include "inspect/extract_private.h"
#include "inspect/mapped_elf.h"
#include "inspect/payload.h"

/* The payload's tables of symbols may not be in a core (they are read-only pages of a file that is
 * gone), but its data is: the header says what it is. */
static bool scan_for_magic(tm_target *target, uint64_t start_addr, uint64_t end_addr,
                           uint64_t *ret_addr)
{
    enum { PIECE_BYTES = 1 << 16, SCAN_MAX_BYTES = 1 << 24 };
    g_autofree uint64_t *piece = g_malloc(PIECE_BYTES);
    if (end_addr - start_addr > SCAN_MAX_BYTES)
        end_addr = start_addr + SCAN_MAX_BYTES;
    for (uint64_t at = start_addr & ~7ull; at < end_addr; at += PIECE_BYTES) {
        size_t n_bytes = tm_target_read_some(target, at, piece, MIN(PIECE_BYTES, end_addr - at));
        for (size_t i = 0; i < n_bytes / 8; i++) {
            if (piece[i] == TM_STATE_MAGIC) {
                *ret_addr = at + i * 8;
                return true;
            }
        }
    }
    return false;
}

static bool locate(tm_target *target, const struct tm_module *module, uint64_t *ret_addr)
{
    if (tm_mapped_elf_find_export(target, module->start_addr, TM_STATE_SYMBOL, ret_addr))
        return true;
    const tm_maps *maps = target->modules->maps;
    for (size_t i = 0; i < maps->count; i++) {
        const struct tm_map *map = &maps->items[i];
        if (map->start_addr >= module->start_addr && map->end_addr <= module->end_addr &&
            map->perms[1] == 'w' &&
            scan_for_magic(target, map->start_addr, map->end_addr, ret_addr))
            return true;
    }
    return false;
}

static enum tm_state_found unusable(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static enum tm_state_found unusable(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    *error = g_error_new_valist(TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND, format, args);
    va_end(args);
    return TM_STATE_UNUSABLE;
}

static enum tm_state_found check_state(tm_target *target, const struct tm_module *module,
                                       uint64_t addr, GError **error)
{
    struct tm_state state;
    if (tm_target_read_some(target, addr, &state, sizeof(state)) != sizeof(state))
        return unusable(error, "%s: the payload's state is not in memory", target->name);
    if (state.magic != TM_STATE_MAGIC)
        return unusable(error, "%s: %s exports a state that is not one of tm's", target->name,
                        module->path);
    if (state.version != TM_STATE_VERSION || state.size_bytes != sizeof(state) ||
        state.shape != TM_STATE_SHAPE)
        return unusable(error,
                        "%s: the payload's state is of version %u (%u bytes, shape "
                        "%" G_GINT64_MODIFIER "x); this tm reads version %u (%zu bytes, shape "
                        "%" G_GINT64_MODIFIER "x): use the tm that the process was attached with",
                        target->name, state.version, state.size_bytes, state.shape,
                        TM_STATE_VERSION, sizeof(state), (uint64_t)TM_STATE_SHAPE);
    return TM_STATE_FOUND;
}

enum tm_state_found tm_extract_find_state(tm_target *target, uint64_t *ret_addr, GError **error)
{
    const tm_modules *modules = target->modules;
    enum tm_state_found found = TM_STATE_NOT_FOUND;
    for (size_t i = 0; i < modules->count; i++) {
        const struct tm_module *module = &modules->items[i];
        struct tm_state state;
        uint64_t addr;
        if (!tm_payload_has_name(module) || !locate(target, module, &addr))
            continue;
        g_clear_error(error);
        found = check_state(target, module, addr, error);
        if (found == TM_STATE_UNUSABLE)
            continue;
        *ret_addr = addr;
        /* An extension that was imported and never enabled does not hide what else there is. */
        if (tm_target_read_some(target, addr, &state, sizeof(state)) == sizeof(state) &&
            atomic_load(&state.tracing) == TM_TRACING_ON)
            return found;
        found = unusable(error, "%s: tm's tracing is off", target->name);
    }
    return found;
}
