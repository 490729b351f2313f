// SPDX-License-Identifier: MIT
/*
 * Where the dictionary lies: up to 3.11 in the static variable `interned`
 * (Objects/unicodeobject.c; of 2.7 Objects/stringobject.c), from 3.12 on in the
 * main interpreter, which is part of _PyRuntime (cached_objects.interned_strings,
 * Include/internal/pycore_global_objects.h). So a word in the writable data of
 * the module that is Python points to it. That variable has no symbol in a
 * stripped Python and its place differs by build; but the dictionary is known by
 * what it does: it alone maps a string that was interned a moment ago to that
 * very object.
 */
#include "payload/pymodule/interned.h"

#include <link.h>
#include <stdint.h>
#include <unistd.h>

#include "payload/pymodule/image.h"

#define PROBE "tm asks which dictionary holds the interned strings"
enum { LOWEST_ADDR = 0x10000, ADDR_BITS = 47 };

/* The writable segments of one module, and all that belongs to it. */
struct module {
    uint64_t inside_addr; /* what is looked for */
    uint64_t start_addr, end_addr;
    struct {
        uint64_t start_addr, end_addr;
    } writable[8];
    int n_writable;
};

static int look_at_module(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct module *module = arg;
    struct module seen = {.inside_addr = module->inside_addr, .start_addr = UINT64_MAX};
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uint64_t start = info->dlpi_addr + segment->p_vaddr, end = start + segment->p_memsz;
        if (segment->p_type != PT_LOAD)
            continue;
        if (start < seen.start_addr)
            seen.start_addr = start;
        if (end > seen.end_addr)
            seen.end_addr = end;
        if ((segment->p_flags & (PF_W | PF_R)) == (PF_W | PF_R) && seen.n_writable < 8) {
            seen.writable[seen.n_writable].start_addr = (start + 7) & ~(uint64_t)7;
            seen.writable[seen.n_writable++].end_addr = end & ~(uint64_t)7;
        }
    }
    if (seen.inside_addr < seen.start_addr || seen.inside_addr >= seen.end_addr)
        return 0;
    *module = seen;
    return 1;
}

/* Whether a dictionary lies there. The kernel copies: the address may be anything. */
static bool is_dict(int scratch_fd, uint64_t addr)
{
    uint64_t head[2]; /* PyObject: ob_refcnt, ob_type */
    return pwrite(scratch_fd, (const void *)addr, sizeof(head), 0) == sizeof(head) &&
           pread(scratch_fd, head, sizeof(head), 0) == sizeof(head) && head[0] != 0 &&
           head[1] == (uint64_t)tm_pyf.dict_type;
}

static bool holds_itself(PyObj *dict, PyObj *probe)
{
    return tm_pyf.PyDict_GetItem(dict, probe) == probe;
}

/* The variable's address, NULL where there is none. */
static PyObj **find(PyObj *probe)
{
    struct module module = {.inside_addr = (uint64_t)tm_py.none};
    int scratch_fd = tm_memfd("tm-interned");
    PyObj **found = NULL;
    if (scratch_fd >= 0 && dl_iterate_phdr(look_at_module, &module)) {
        for (int i = 0; i < module.n_writable && found == NULL; i++) {
            PyObj **at = (PyObj **)module.writable[i].start_addr;
            PyObj **end = (PyObj **)module.writable[i].end_addr;
            for (; at < end && found == NULL; at++) {
                uint64_t addr = (uint64_t)*at;
                bool may_be_object = addr >= LOWEST_ADDR && addr >> ADDR_BITS == 0 &&
                                     addr % 8 == 0 &&
                                     !(addr >= module.start_addr && addr < module.end_addr);
                if (may_be_object && is_dict(scratch_fd, addr) && holds_itself(*at, probe))
                    found = at;
            }
        }
    }
    if (scratch_fd >= 0)
        close(scratch_fd);
    return found;
}

static PyObj *describe(PyObj *dict)
{
    PyObj *sys = tm_pyf.PyImport_ImportModule("sys");
    PyObj *size = sys ? tm_pyf.PyObject_CallMethod(sys, "getsizeof", "O", dict) : NULL;
    tm_py_decref(sys);
    return size ? tm_py_tuple2(size, tm_pyf.PyLong_FromLongLong(tm_pyf.PyDict_Size(dict))) : NULL;
}

PyObj *tm_interned_py_get(PyObj *self, PyObj *unused)
{
    static PyObj **variable; /* found once; what it points to is asked for each time */
    static bool absent;
    (void)self;
    (void)unused;
    if (variable == NULL && !absent) {
        PyObj *probe = tm_pyf.PyUnicode_InternFromString(PROBE);
        if (probe == NULL)
            return NULL;
        variable = find(probe);
        absent = variable == NULL;
        tm_py_decref(probe); /* which takes it out of the dictionary; 3.12 keeps it for ever */
    }
    PyObj *dict = variable ? *variable : NULL;
    return dict && tm_py_type(dict) == tm_pyf.dict_type ? describe(dict) : tm_py_none();
}
