// SPDX-License-Identifier: MIT
/* Where tracemalloc's tables are, by the interpreter's debug information. */
#include "inspect/tracemalloc_layout.h"

#include "inspect/error.h"

struct wanted {
    const char *type, *path;
    struct tm_field *ret;
};

static bool find_fields(tm_debug_info *info, const struct wanted *wanted, size_t count,
                        GError **error)
{
    for (size_t i = 0; i < count; i++) {
        if (tm_debug_info_field(info, wanted[i].type, wanted[i].path, wanted[i].ret))
            continue;
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                    "its debug information has no %s.%s", wanted[i].type, wanted[i].path);
        return false;
    }
    return true;
}

static bool find_tables(tm_debug_info *info, struct tm_tracemalloc_layout *ret, GError **error)
{
    /* Up to 3.8 the number of buckets has another name, and entries hold no pointers. */
    ret->inline_data = !tm_debug_info_field(info, "_Py_hashtable_entry_t", "key", &ret->entry_key);
    const struct wanted common[] = {
        {"_Py_hashtable_t", ret->inline_data ? "num_buckets" : "nbuckets", &ret->table_buckets},
        {"_Py_hashtable_t", ret->inline_data ? "entries" : "nentries", &ret->table_entries},
        {"_Py_hashtable_t", "buckets", &ret->table_array},
        {"trace_t", "size", &ret->trace_size},
        {"trace_t", "traceback", &ret->trace_traceback},
        {"traceback_t", "nframe", &ret->traceback_frames_count},
        {"traceback_t", "frames", &ret->traceback_frames},
        {"frame_t", "filename", &ret->frame_filename},
        {"frame_t", "lineno", &ret->frame_line},
        {"PyASCIIObject", "length", &ret->str_length},
        {"PyASCIIObject", "state.kind", &ret->str_kind},
        {"PyASCIIObject", "state.compact", &ret->str_compact},
        {"PyASCIIObject", "state.ascii", &ret->str_ascii},
        ret->inline_data ? (struct wanted){"_Py_hashtable_t", "key_size", &ret->table_key_bytes}
                         : (struct wanted){"_Py_hashtable_entry_t", "value", &ret->entry_value},
    };
    return find_fields(info, common, G_N_ELEMENTS(common), error) &&
           tm_debug_info_size(info, "_Py_hashtable_entry_t", &ret->entry_bytes) &&
           tm_debug_info_size(info, "frame_t", &ret->frame_bytes) &&
           tm_debug_info_size(info, "PyASCIIObject", &ret->ascii_bytes) &&
           tm_debug_info_size(info, "PyCompactUnicodeObject", &ret->compact_bytes);
}

struct globals {
    uint64_t config_addr;
    struct tm_field tracing, max_frames;
};

/* 3.12 on: in _PyRuntime. */
static bool find_in_runtime(tm_debug_info *info, uint64_t bias, struct tm_tracemalloc_layout *ret,
                            struct globals *globals)
{
    struct tm_field traces, domains, traced, peak;
    uint64_t runtime;
    if (!tm_debug_info_variable(info, "_PyRuntime", &runtime) ||
        !tm_debug_info_field(info, "_PyRuntimeState", "tracemalloc.traces", &traces) ||
        !tm_debug_info_field(info, "_PyRuntimeState", "tracemalloc.domains", &domains) ||
        !tm_debug_info_field(info, "_PyRuntimeState", "tracemalloc.traced_memory", &traced) ||
        !tm_debug_info_field(info, "_PyRuntimeState", "tracemalloc.peak_traced_memory", &peak) ||
        !tm_debug_info_field(info, "_PyRuntimeState", "tracemalloc.config.tracing",
                             &globals->tracing) ||
        !tm_debug_info_field(info, "_PyRuntimeState", "tracemalloc.config.max_nframe",
                             &globals->max_frames))
        return false;
    runtime += bias;
    globals->config_addr = runtime;
    ret->traces_addr = runtime + traces.offset_bytes;
    ret->domains_addr = runtime + domains.offset_bytes;
    ret->traced_addr = runtime + traced.offset_bytes;
    ret->peak_addr = runtime + peak.offset_bytes;
    return true;
}

/* Up to 3.11: variables of the module. */
static bool find_in_module(tm_debug_info *info, uint64_t bias, struct tm_tracemalloc_layout *ret,
                           struct globals *globals)
{
    uint64_t traces, domains = 0, traced, peak, config;
    if (!tm_debug_info_variable(info, "tracemalloc_traces", &traces) ||
        !tm_debug_info_variable(info, "tracemalloc_traced_memory", &traced) ||
        !tm_debug_info_variable(info, "tracemalloc_peak_traced_memory", &peak) ||
        !tm_debug_info_variable(info, "_Py_tracemalloc_config", &config) ||
        !tm_debug_info_field(info, "_PyTraceMalloc_Config", "tracing", &globals->tracing) ||
        !tm_debug_info_field(info, "_PyTraceMalloc_Config", "max_nframe", &globals->max_frames))
        return false;
    globals->config_addr = config + bias;
    ret->traces_addr = traces + bias;
    ret->traced_addr = traced + bias;
    ret->peak_addr = peak + bias;
    ret->domains_addr =
        tm_debug_info_variable(info, "tracemalloc_domains", &domains) ? domains + bias : 0;
    return true;
}

static bool check_tracing(tm_target *target, const struct globals *globals,
                          struct tm_tracemalloc_layout *ret, GError **error)
{
    int32_t tracing, max_frames;
    if (!tm_target_read(target, globals->config_addr + globals->tracing.offset_bytes, &tracing,
                        sizeof(tracing), "tracemalloc's configuration", error) ||
        !tm_target_read(target, globals->config_addr + globals->max_frames.offset_bytes,
                        &max_frames, sizeof(max_frames), "tracemalloc's configuration", error))
        return false;
    if (tracing != 1) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                    "not traced: neither tm nor tracemalloc was tracing it");
        return false;
    }
    ret->traceback_limit = max_frames;
    return true;
}

bool tm_tracemalloc_layout_find(tm_target *target, struct tm_tracemalloc_layout *ret,
                                GError **error)
{
    struct tm_python python;
    struct globals globals;
    uint64_t version = 0, addr;
    tm_python_find(target->modules, &python);
    if (python.kind != TM_PYTHON_CPYTHON) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                    "not traced by tm, and no CPython was found in it");
        return false;
    }
    struct tm_module *module = python.module;
    g_autoptr(tm_debug_info) info = tm_debug_info_open(module->elf, module->path, error);
    if (info == NULL) {
        g_prefix_error(error, "not traced by tm, and tracemalloc's tables cannot be found: ");
        return false;
    }
    g_strlcpy(ret->python, python.version, sizeof(ret->python));
    if (tm_module_export_addr(target->modules, module, "Py_Version", &addr) &&
        tm_target_read_some(target, addr, &version, 8) == 8 && version >> 24 == 3)
        tm_python_format_version((uint32_t)version, ret->python);
    if (!find_in_runtime(info, module->bias, ret, &globals) &&
        !find_in_module(info, module->bias, ret, &globals)) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                    "not traced by tm, and %s (Python %s) has no tracemalloc that is known",
                    module->path, python.version);
        return false;
    }
    if (!check_tracing(target, &globals, ret, error))
        return false;
    if (!find_tables(info, ret, error)) {
        if (error != NULL && *error == NULL)
            g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND,
                        "its debug information lacks a type of tracemalloc's");
        g_prefix_error(error, "%s: ", module->path);
        return false;
    }
    return true;
}
