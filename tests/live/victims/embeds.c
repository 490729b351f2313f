// SPDX-License-Identifier: MIT
/* embeds LIBPYTHON HOME: opens a libpython RTLD_LOCAL, as a plug-in host does, and runs a loop. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    setenv("PYTHONHOME", argv[2], 1);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    void (*initialize)(void) =
        library != NULL ? (void (*)(void))dlsym(library, "Py_Initialize") : NULL;
    int (*run)(const char *) =
        library != NULL ? (int (*)(const char *))dlsym(library, "PyRun_SimpleString") : NULL;
    if (initialize == NULL || run == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    initialize();
    return run("import time, sys\n"
               "print('ready'); sys.stdout.flush()\n"
               "n = 0\n"
               "while True:\n"
               "    n += 1\n"
               "    x = [i for i in range(1000)]\n"
               "    time.sleep(0.02)\n"
               "    print('beat', n); sys.stdout.flush()\n");
}
