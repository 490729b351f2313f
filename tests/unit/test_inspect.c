// SPDX-License-Identifier: MIT
#include <string.h>
#include <unistd.h>

#include "inspect/elf_file.h"
#include "inspect/error.h"
#include "inspect/maps.h"
#include "inspect/memory.h"
#include "inspect/module.h"
#include "inspect/payload.h"
#include "inspect/process.h"
#include "inspect/python.h"

static void maps_parse(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(tm_maps) maps = tm_maps_parse(
        "00400000-00401000 r-xp 00001000 08:01 42 /usr/bin/a b\\012c (deleted)\n"
        "7f0000000000-7f0000002000 rw-p 00000000 00:00 0 \n"
        "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n",
        &error);
    g_assert_no_error(error);
    g_assert_cmpuint(maps->count, ==, 3);
    g_assert_cmpstr(maps->items[0].path, ==, "/usr/bin/a b\nc");
    g_assert_true(maps->items[0].deleted);
    g_assert_cmpuint(maps->items[0].offset_bytes, ==, 0x1000);
    g_assert_cmpuint(maps->items[0].inode, ==, 42);
    g_assert_cmpstr(maps->items[1].path, ==, "");
    g_assert_cmpstr(maps->items[2].path, ==, "[stack]");
    g_assert_true(tm_maps_find(maps, 0x400fff) == &maps->items[0]);
    g_assert_null(tm_maps_find(maps, 0x401000));
    g_assert_null(tm_maps_find(maps, 0));
}

static void maps_reject(void)
{
    static const char *const bad[] = {"x", "1000-1000 r--p 0 0:0 0 \n", "2000-1000 r--p 0 0:0 0 \n",
                                      "1000-2000 r--p\n", "\n"};
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(tm_maps_parse(bad[i], &error));
        g_assert_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT);
    }
}

static void memory_short_read(void)
{
    g_autoptr(tm_maps) maps = tm_maps_read(getpid(), NULL);
    char buffer[8192];
    for (size_t i = 0; i + 1 < maps->count; i++) {
        const struct tm_map *map = &maps->items[i];
        if (strcmp(map->path, "") != 0 || map->perms[0] != 'r' ||
            maps->items[i + 1].start_addr == map->end_addr)
            continue;
        g_assert_cmpint(tm_memory_read_some(getpid(), map->end_addr - 100, buffer, 8192), ==, 100);
        g_assert_cmpint(tm_memory_read_some(getpid(), map->end_addr, buffer, 8), ==, 0);
        return;
    }
    g_test_skip("no mapping with a gap behind it");
}

static void module_finds_itself(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(tm_modules) modules = tm_modules_read(getpid(), &error);
    g_assert_no_error(error);
    struct tm_module *exe = tm_modules_find_exe(modules);
    g_assert_true(exe == tm_modules_find(modules, (uint64_t)(uintptr_t)module_finds_itself));
    g_assert_true(tm_module_open(modules, exe, &error));
    struct tm_symbol symbol;
    g_assert_true(tm_elf_find_symbol(exe->elf, "main", &symbol));
    struct tm_module *libc = tm_modules_find_name(modules, "libc.so.6");
    uint64_t addr = 0;
    if (libc != NULL) {
        g_assert_true(tm_module_export_addr(modules, libc, "munmap", &addr));
        g_autoptr(tm_symbols) functions = tm_elf_functions(libc->elf);
        g_assert_cmpstr(tm_symbols_find(functions, addr - libc->bias)->name, ==, "munmap");
    }
    struct tm_module *vdso = tm_modules_find_name(modules, "[vdso]");
    if (vdso != NULL)
        g_assert_true(tm_module_open(modules, vdso, &error));
}

static void elf_reject(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) bytes = g_bytes_new_static("\177ELF\2\1\1garbage", 14);
    g_assert_null(tm_elf_open_image(bytes, &error));
    g_assert_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT);
}

static void process_facts(void)
{
    struct tm_process process;
    g_autoptr(GError) error = NULL;
    g_assert_true(tm_process_read(getpid(), &process, &error));
    g_assert_cmpint(process.tgid, ==, getpid());
    g_assert_cmpint(process.state, ==, 'R');
    g_assert_false(process.kernel_thread);
    g_assert_cmpuint(process.uids[1], ==, geteuid());
    g_assert_false(tm_process_read(0x7ffffff0, &process, &error));
    g_assert_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_GONE);
}

static void python_version(void)
{
    g_assert_cmphex(tm_python_version_hex("3.11.7"), ==, 0x030b07f0);
    g_assert_cmphex(tm_python_version_hex("3.14.0rc2"), ==, 0x030e00c2);
    g_assert_cmphex(tm_python_version_hex("3.13.0a10"), ==, 0x030d00aa);
    g_assert_cmphex(tm_python_version_hex("2.7.18+"), ==, 0x020712f0);
    g_assert_cmphex(tm_python_version_hex("3.11"), ==, 0);
    g_assert_cmphex(tm_python_version_hex("3.11.7 x"), ==, 0);
    g_assert_cmphex(tm_python_version_hex(""), ==, 0);
}

static void python_none_here(void)
{
    struct tm_python python;
    struct tm_payload payload;
    g_autoptr(tm_modules) modules = tm_modules_read(getpid(), NULL);
    tm_python_find(modules, &python);
    g_assert_cmpint(python.kind, ==, TM_PYTHON_NONE);
    g_assert_true(tm_inspect_find_payload(getpid(), modules, &payload, NULL));
    g_assert_false(payload.mapped);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/inspect/maps/parse", maps_parse);
    g_test_add_func("/inspect/maps/reject", maps_reject);
    g_test_add_func("/inspect/memory/short-read", memory_short_read);
    g_test_add_func("/inspect/module/finds-itself", module_finds_itself);
    g_test_add_func("/inspect/elf/reject", elf_reject);
    g_test_add_func("/inspect/process/facts", process_facts);
    g_test_add_func("/inspect/python/version", python_version);
    g_test_add_func("/inspect/python/none-here", python_none_here);
    return g_test_run();
}
