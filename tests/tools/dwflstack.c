// SPDX-License-Identifier: MIT
/*
 * Prints the native stack of a process's main thread as libdw's own unwinder sees
 * it, a line "FRAME pc name" for each frame, the most recent first: what the live
 * tests compare the target's own walk with.
 */
#include <elfutils/libdwfl.h>
#include <stdio.h>
#include <stdlib.h>

static int print_frame(Dwfl_Frame *frame, void *data)
{
    Dwfl *dwfl = data;
    Dwarf_Addr pc;
    bool is_activation;

    if (!dwfl_frame_pc(frame, &pc, &is_activation))
        return DWARF_CB_ABORT;
    Dwfl_Module *module = dwfl_addrmodule(dwfl, is_activation ? pc : pc - 1);
    const char *name = module ? dwfl_module_addrname(module, is_activation ? pc : pc - 1) : NULL;
    printf("FRAME %llu %s\n", (unsigned long long)pc, name ? name : "?");
    return DWARF_CB_OK;
}

int main(int argc, char **argv)
{
    static char *debug_path = NULL;
    static const Dwfl_Callbacks callbacks = {
        .find_elf = dwfl_linux_proc_find_elf,
        .find_debuginfo = dwfl_standard_find_debuginfo,
        .debuginfo_path = &debug_path,
    };
    pid_t pid = argc == 2 ? (pid_t)atoi(argv[1]) : 0;
    Dwfl *dwfl = dwfl_begin(&callbacks);

    if (pid <= 0 || dwfl == NULL || dwfl_linux_proc_report(dwfl, pid) != 0 ||
        dwfl_report_end(dwfl, NULL, NULL) != 0 || dwfl_linux_proc_attach(dwfl, pid, false) != 0) {
        fprintf(stderr, "dwflstack: %s\n", dwfl ? dwfl_errmsg(-1) : "usage: dwflstack PID");
        return 1;
    }
    int failed = dwfl_getthread_frames(dwfl, pid, print_frame, dwfl);
    if (failed < 0)
        fprintf(stderr, "dwflstack: %s\n", dwfl_errmsg(-1));
    dwfl_end(dwfl);
    return failed != 0;
}
