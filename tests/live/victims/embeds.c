// SPDX-License-Identifier: MIT
/* embeds LIBPYTHON HOME: opens a libpython RTLD_LOCAL, as a plug-in host does, and runs a loop.
 * embeds LIBPYTHON HOME again: ends the interpreter and begins anew with each line of stdin. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* Without the GIL while it waits. */
static int begin_again(void *library, void (*initialize)(void), int (*run)(const char *))
{
    void (*finalize)(void) = (void (*)(void))dlsym(library, "Py_Finalize");
    void *(*save)(void) = (void *(*)(void))dlsym(library, "PyEval_SaveThread");
    void (*restore)(void *) = (void (*)(void *))dlsym(library, "PyEval_RestoreThread");

    do {
        initialize();
        if (run("import threading, sys\n"
                "thread = threading.Thread(target=lambda: [bytearray(n) for n in range(999)])\n"
                "thread.start(); thread.join()\n"
                "print('ready'); sys.stdout.flush()\n") != 0)
            return 1;
        void *state = save();
        int key = getchar();
        restore(state);
        if (key == EOF)
            break;
        finalize();
    } while (1);
    finalize();
    puts("well");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4)
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
    if (argc == 4)
        return begin_again(library, initialize, run);
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
