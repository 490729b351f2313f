// SPDX-License-Identifier: MIT
#include "payload/pymodule/live.h"

#include <fcntl.h>
#include <unistd.h>

#include "payload/intern.h"
#include "payload/pymodule/names.h"
#include "payload/query.h"
#include "payload/tracer.h"

/* ---- names of the live tables ---- */

static struct tms_str live_string(const void *source, uint32_t id)
{
    const struct tm_string *string = tm_intern_string_at(id);
    (void)source;
    return (struct tms_str){(const char *)string->addr, string->n_bytes};
}

static struct tms_site live_site(const void *source, uint32_t id)
{
    const struct tm_site *site = tm_intern_site_at(id);
    (void)source;
    return (struct tms_site){
        .file = site->file,
        .line = site->line,
        .kind = site->flags & TM_SITE_NATIVE ? TMS_SITE_NATIVE : TMS_SITE_PYTHON,
    };
}

static struct tms_node live_node(const void *source, uint32_t id)
{
    const struct tm_node *node = tm_intern_node_at(id);
    (void)source;
    return (struct tms_node){node->parent, node->site};
}

static struct tm_names live_names(void)
{
    return (struct tm_names){
        .n_nodes = tm_vec_count(&tm_state_export.nodes),
        .n_sites = tm_vec_count(&tm_state_export.sites),
        .n_strings = tm_vec_count(&tm_state_export.strings),
        .string = live_string,
        .site = live_site,
        .node = live_node,
    };
}

/* ---- all ---- */

static bool fill_traces(PyObj *dict)
{
    struct tm_query_traces traces;
    struct tm_pynames names;
    if (!tm_query_traces(&traces)) {
        tm_pyf.PyErr_NoMemory();
        return false;
    }
    struct tm_names live = live_names();
    bool ok = tm_pynames_init(&names, &live);
    for (size_t i = 0; ok && i < traces.count; i++)
        ok = tm_pynames_add_trace(&names, dict, traces.items[i].addr, traces.items[i].size_bytes,
                                  traces.items[i].node);
    tm_pynames_done(&names);
    tm_query_traces_free(&traces);
    return ok;
}

static bool fill_stats(PyObj *dict)
{
    struct tm_pynames names;
    struct tm_names live = live_names();
    bool ok = tm_pynames_init(&names, &live);
    for (uint32_t site = 0; ok && site < live.n_sites; site++) {
        uint64_t bytes, blocks;
        tm_query_site(site, &bytes, &blocks);
        if (blocks > 0)
            ok = tm_pynames_add_stat(&names, dict, site ? site : TMS_NO_ID, bytes, blocks);
    }
    tm_pynames_done(&names);
    return ok;
}

/* The store stays although a finalizer that runs meanwhile may switch tracing off. */
static PyObj *dict_of(bool (*fill)(PyObj *dict))
{
    PyObj *dict = tm_pyf.PyDict_New();
    if (dict == NULL || !tm_tracer_hold())
        return dict;
    bool ok = fill(dict);
    tm_tracer_unhold();
    if (!ok) {
        tm_py_decref(dict);
        return NULL;
    }
    return dict;
}

PyObj *tm_live_get_traces(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    return dict_of(fill_traces);
}

PyObj *tm_live_get_stats(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    return dict_of(fill_stats);
}

/* ---- one ---- */

/* Frame by frame, without tables by id: this is asked often and for few. */
static PyObj *traceback_of(uint32_t node)
{
    PyObj *traceback, *frame = NULL;
    PySize n = 0;
    for (uint32_t i = node; i != 0; i = tm_intern_node_at(i)->parent)
        n += !(tm_intern_site_at(tm_intern_node_at(i)->site)->flags & TM_SITE_NATIVE);
    traceback = tm_pyf.PyTuple_New(n);
    n = 0;
    for (uint32_t i = node; traceback && i != 0; i = tm_intern_node_at(i)->parent) {
        const struct tm_site *site = tm_intern_site_at(tm_intern_node_at(i)->site);
        if (site->flags & TM_SITE_NATIVE)
            continue;
        PyObj *file = tm_py_incref(tm_py.none);
        if (site->file != TM_NONE) {
            struct tms_str text = live_string(NULL, site->file);
            tm_py_decref(file);
            file = tm_py_text(text.bytes, text.n_bytes);
        }
        frame = tm_py_tuple2(file, site->line < 1 ? tm_py_none()
                                                  : tm_pyf.PyLong_FromLongLong(site->line));
        if (frame == NULL) {
            tm_py_decref(traceback);
            return NULL;
        }
        tm_pyf.PyTuple_SetItem(traceback, n++, frame);
    }
    return traceback;
}

static PyObj *trace_at(uint64_t addr)
{
    struct tm_query_trace trace;
    PyObj *result;
    if (!tm_tracer_hold())
        return tm_py_none();
    if (tm_query_trace(addr, &trace))
        result = tm_py_tuple2(tm_pyf.PyLong_FromUnsignedLongLong(trace.size_bytes),
                              traceback_of(trace.node));
    else
        result = tm_py_none();
    tm_tracer_unhold();
    return result;
}

PyObj *tm_live_get_trace(PyObj *self, PyObj *address)
{
    (void)self;
    unsigned long long addr = tm_pyf.PyLong_AsUnsignedLongLong(address);
    if (addr == ~0ull && tm_py.PyErr_Occurred())
        return NULL;
    return trace_at(addr);
}

/*
 * What lies before an object in its block: the GC head, and from 3.11 on two words for a managed
 * dict or weakref list. A type's flags are at byte 168 (Include/cpython/object.h, the same from
 * 2.7 to 3.14, less the longer head of a free-threaded build): 1 << 14 has a GC head; 1 << 3 (3.12
 * on) and 1 << 4 (3.11 on) have a pre-header.
 */
static uint64_t object_address(PyObj *object)
{
    static long gc_head_bytes = -1; /* learnt once: it changed with 3.8, and within 3.7 */
    size_t flags_at = 168 + (tm_py_head_words() - 1) * sizeof(void *);
    uint64_t flags = *(unsigned long *)((char *)tm_py_type(object) + flags_at);
    uint64_t addr = (uint64_t)object;
    if (gc_head_bytes < 0) {
        PyObj *list = tm_pyf.PyList_New(0), *sys = tm_pyf.PyImport_ImportModule("sys");
        PyObj *with = sys ? tm_pyf.PyObject_CallMethod(sys, "getsizeof", "(O)", list) : NULL;
        PyObj *without = tm_pyf.PyObject_CallMethod(list, "__sizeof__", NULL);
        if (with && without)
            gc_head_bytes = tm_py.PyLong_AsLong(with) - tm_py.PyLong_AsLong(without);
        tm_py_decref(with);
        tm_py_decref(without);
        tm_py_decref(sys);
        tm_py_decref(list);
        if (gc_head_bytes < 0)
            return 0;
    }
    if (flags & 1u << 14)
        addr -= (uint64_t)gc_head_bytes;
    if (tm_py.version_hex >= 0x030b0000 && flags & (1u << 4 | 1u << 3))
        addr -= 2 * sizeof(void *);
    return addr;
}

PyObj *tm_live_get_object_address(PyObj *self, PyObj *object)
{
    (void)self;
    uint64_t addr = object_address(object);
    return addr ? tm_pyf.PyLong_FromUnsignedLongLong(addr) : NULL;
}

PyObj *tm_live_get_object_trace(PyObj *self, PyObj *object)
{
    (void)self;
    uint64_t addr = object_address(object);
    return addr ? trace_at(addr) : NULL;
}

/* ---- totals ---- */

PyObj *tm_live_get_traced_memory(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    struct tm_totals totals = tm_tracer_totals();
    return tm_py_pair(totals.traced_bytes, totals.peak_bytes);
}

PyObj *tm_live_get_own_memory(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
    tm_tracer_measure();
    tm_pyf.PyEval_RestoreThread(tstate);
    struct tm_totals totals = tm_tracer_totals();
    return tm_py_pair(totals.own_bytes, totals.own_free_bytes);
}

static uint64_t read_number(const char **text)
{
    uint64_t number = 0;
    while (**text >= '0' && **text <= '9')
        number = number * 10 + (uint64_t)(*(*text)++ - '0');
    return number;
}

PyObj *tm_live_get_process_memory(PyObj *self, PyObj *unused)
{
    char text[256];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n_bytes = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    (void)self;
    (void)unused;
    if (fd >= 0)
        close(fd);
    if (n_bytes <= 0)
        return tm_py_none();
    text[n_bytes] = '\0';
    const char *p = text;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), vms = read_number(&p);
    p += *p == ' ';
    return tm_py_pair(read_number(&p) * page, vms * page);
}

PyObj *tm_live_clear_traces(PyObj *self, PyObj *unused)
{
    (void)self;
    (void)unused;
    if (tm_tracer_is_enabled())
        tm_query_clear();
    return tm_py_none();
}
