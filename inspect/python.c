// SPDX-License-Identifier: MIT
/* Which module of a process is the Python interpreter, and which Python it is. Reads files and
 * memory only. */
#include "inspect/python.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inspect/memory.h"

uint32_t tm_python_version_hex(const char *version)
{
    unsigned major, minor, micro, serial = 0;
    int used = 0;
    if (sscanf(version, "%1u.%2u.%2u%n", &major, &minor, &micro, &used) != 3)
        return 0;
    const char *rest = version + used;
    unsigned level = 0xf;
    if (*rest == 'a' || *rest == 'b' || *rest == 'c' || *rest == 'r') {
        level = *rest == 'a' ? 0xa : *rest == 'b' ? 0xb : 0xc;
        rest += strncmp(rest, "rc", 2) == 0 ? 2 : 1;
        if (sscanf(rest, "%2u%n", &serial, &used) != 1 || serial > 15)
            return 0;
        rest += used;
    }
    if (*rest == '+')
        rest++;
    if (*rest != '\0')
        return 0;
    return major << 24 | minor << 16 | micro << 8 | level << 4 | serial;
}

void tm_python_format_version(uint32_t hex, char ret[TM_PYTHON_VERSION_BYTES])
{
    unsigned level = hex >> 4 & 0xf;
    int n = snprintf(ret, TM_PYTHON_VERSION_BYTES, "%u.%u.%u", hex >> 24, hex >> 16 & 0xff,
                     hex >> 8 & 0xff);
    if (level != 0xf && n > 0)
        snprintf(ret + n, TM_PYTHON_VERSION_BYTES - (size_t)n, "%s%u",
                 level == 0xa   ? "a"
                 : level == 0xb ? "b"
                                : "rc",
                 hex & 0xf);
}

/* Py_Version is exported by 3.11 and later (Include/pylifecycle.h). */
static bool version_from_symbol(tm_modules *modules, struct tm_python *python)
{
    uint64_t addr, value = 0;
    if (!tm_module_export_addr(modules, python->module, "Py_Version", &addr) ||
        !tm_memory_read(modules->pid, addr, &value, sizeof(value), NULL) || value >> 24 < 3)
        return false;
    python->version_hex = (uint32_t)value;
    tm_python_format_version(python->version_hex, python->version);
    return true;
}

/* "X.Y" as the names of the files have it: libpython3.8.so.1.0, python3.8, libpython3.6m. */
static bool version_from_name(const struct tm_module *module, char hint[8])
{
    const char *slash = strrchr(module->path, '/');
    const char *found = strstr(slash != NULL ? slash : module->path, "python");
    unsigned major, minor;
    if (found == NULL || sscanf(found, "python%1u.%2u", &major, &minor) != 2)
        return false;
    snprintf(hint, 8, "%u.%u", major % 10, minor % 100);
    return true;
}

/* True where the string at `at` is a version that fits: of X.Y as the file's name says, or where
 * that says nothing, one whose X.Y stands alone somewhere in the data too (VERSION). */
static uint32_t accept_version(const char *at, size_t left, const char *hint, const Elf_Data *data)
{
    size_t n = strnlen(at, left);
    uint32_t hex = n < 16 && n < left ? tm_python_version_hex(at) : 0;
    char alone[8];
    int alone_n = snprintf(alone, sizeof(alone), "%u.%u", hex >> 24 & 0xf, hex >> 16 & 0xff);
    if (hex == 0)
        return 0;
    if (hint[0] != '\0')
        return strcmp(alone, hint) == 0 ? hex : 0;
    return memmem(data->d_buf, data->d_size, alone, (size_t)alone_n + 1) != NULL ? hex : 0;
}

/*
 * Before 3.11 the version is only there as the string literal PY_VERSION ("3.8.18") among the
 * read-only data, which may hold other versions' numbers too (of zlib, expat). The linker may have
 * made it the tail of a longer string (a path that ends in the version), so what stands alone is
 * looked for first and tails after that.
 */
static bool version_from_strings(struct tm_python *python)
{
    GElf_Shdr header;
    Elf_Data *data = tm_elf_section(python->module->elf, ".rodata", &header);
    if (data == NULL || data->d_buf == NULL)
        return false;
    char hint[8] = "";
    version_from_name(python->module, hint);
    const char *start = data->d_buf, *end = start + data->d_size;
    for (int tails = 0; tails < 2; tails++) {
        for (const char *at = start + 1; at + 6 < end; at++) {
            if ((*at != '3' && *at != '2') || at[1] != '.' ||
                (tails ? at[-1] != '/' && at[-1] != '-' : at[-1] != '\0'))
                continue;
            uint32_t hex = accept_version(at, (size_t)(end - at), hint, data);
            if (hex == 0)
                continue;
            python->version_hex = hex;
            g_strlcpy(python->version, at, sizeof(python->version));
            return true;
        }
    }
    unsigned major, minor;
    if (sscanf(hint, "%u.%u", &major, &minor) != 2)
        return false;
    python->version_hex = major << 24 | minor << 16;
    g_strlcpy(python->version, hint, sizeof(python->version));
    return true;
}

static bool is_cpython(tm_modules *modules, struct tm_module *module)
{
    uint64_t addr;
    return tm_module_export_addr(modules, module, "PyGILState_Ensure", &addr) &&
           tm_module_export_addr(modules, module, "PyEval_SaveThread", &addr);
}

static bool is_pypy(tm_modules *modules, struct tm_module *module)
{
    uint64_t addr;
    return tm_module_export_addr(modules, module, "pypy_execute_source", &addr) ||
           tm_module_export_addr(modules, module, "pypy_main_startup", &addr) ||
           tm_module_export_addr(modules, module, "PyPyGILState_Ensure", &addr);
}

/* The executable and what is called python come first: a process may have mapped hundreds of
 * modules, and opening them all costs more than everything else here. */
static bool looks_like_python(const struct tm_modules *modules, const struct tm_module *module)
{
    const char *slash = strrchr(module->path, '/');
    const char *name = slash != NULL ? slash + 1 : module->path;
    return module == tm_modules_find_exe(modules) || fnmatch("*python*", name, 0) == 0 ||
           fnmatch("*pypy*", name, 0) == 0;
}

static bool try_module(tm_modules *modules, struct tm_module *module, struct tm_python *ret)
{
    if (is_pypy(modules, module))
        ret->kind = TM_PYTHON_PYPY;
    else if (is_cpython(modules, module))
        ret->kind = TM_PYTHON_CPYTHON;
    else
        return false;
    ret->module = module;
    return true;
}

void tm_python_find(tm_modules *modules, struct tm_python *ret)
{
    *ret = (struct tm_python){.kind = TM_PYTHON_NONE};
    for (int likely = 1; likely >= 0 && ret->kind == TM_PYTHON_NONE; likely--) {
        for (size_t i = 0; i < modules->count && ret->kind == TM_PYTHON_NONE; i++) {
            struct tm_module *module = &modules->items[i];
            if (looks_like_python(modules, module) == (likely == 1))
                try_module(modules, module, ret);
        }
    }
    if (ret->kind != TM_PYTHON_CPYTHON)
        return;
    uint64_t addr;
    ret->has_allocator_api =
        tm_module_export_addr(modules, ret->module, "PyMem_SetAllocator", &addr);
    ret->has_object_functions =
        tm_module_export_addr(modules, ret->module, "PyObject_Malloc", &addr) &&
        tm_module_export_addr(modules, ret->module, "PyObject_Realloc", &addr) &&
        tm_module_export_addr(modules, ret->module, "PyObject_Free", &addr);
    if (!version_from_symbol(modules, ret))
        version_from_strings(ret);
}
