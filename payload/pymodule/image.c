// SPDX-License-Identifier: MIT
#include "payload/pymodule/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "payload/ownfd.h"
#include "payload/snapshot.h"

#define CAPSULE "_pytracemalloc.image"

long tm_pycapsules;

int tm_memfd(const char *name)
{
    return (int)syscall(SYS_memfd_create, name, 1u /* MFD_CLOEXEC */);
}

void tm_pyimage_ref(struct tm_pyimage *image)
{
    image->refs++;
}

void tm_pyimage_unref(struct tm_pyimage *image)
{
    if (image == NULL || --image->refs > 0)
        return;
    tms_file_close(&image->file);
    if (image->map != NULL)
        munmap(image->map, image->map_bytes);
    free(image);
}

static void raise_tms(const struct tms_error *error, PyObj *path)
{
    if (error->code == TMS_E_IO) {
        errno = error->sys_errno;
        if (path != NULL)
            tm_pyf.PyErr_SetFromErrnoWithFilenameObject(tm_pyf.os_error, path);
        else
            tm_pyf.PyErr_SetString(tm_pyf.os_error, error->message);
    } else if (error->code == TMS_E_MEMORY) {
        tm_pyf.PyErr_NoMemory();
    } else {
        tm_pyf.PyErr_SetString(tm_pyf.type_error, error->code == TMS_E_VERSION
                                                      ? "unknown format version"
                                                      : "invalid file format");
    }
}

static struct tm_pyimage *new_image(void)
{
    struct tm_pyimage *image = calloc(1, sizeof(*image));
    if (image == NULL)
        tm_pyf.PyErr_NoMemory();
    else
        image->refs = 1;
    return image;
}

static void look_inside(struct tm_pyimage *image)
{
    int64_t traces = tms_file_fact_i64(&image->file, "traces", -1);
    image->has_traces = traces == 1 || (traces < 0 && image->file.n_groups != 0);
    /* An image that was made from traces alone says so; tracing always writes stats. */
    image->has_stats = tms_file_fact_i64(&image->file, "stats", 1) != 0;
}

struct tm_pyimage *tm_pyimage_adopt_fd(int fd)
{
    struct tm_pyimage *image = new_image();
    struct tms_error error = {0};
    off_t size = lseek(fd, 0, SEEK_END);
    if (image != NULL && size > 0) {
        void *map = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map != MAP_FAILED) {
            image->map = map;
            image->map_bytes = (size_t)size;
        }
    }
    close(fd);
    if (image == NULL)
        return NULL;
    if (image->map == NULL) {
        tm_pyf.PyErr_NoMemory();
    } else if (tms_file_open_memory(&image->file, image->map, image->map_bytes,
                                    TMS_OPEN_NO_CHECKSUMS, &error)) {
        look_inside(image);
        return image;
    } else {
        raise_tms(&error, NULL);
    }
    tm_pyimage_unref(image);
    return NULL;
}

struct tm_pyimage *tm_pyimage_take(bool with_traces)
{
    struct tm_snapshot_options options = {.with_traces = with_traces, .reason = "api"};
    struct tm_snapshot_result result = {0};
    int fd = tm_memfd("tm-snapshot"), status = -ENOMEM;
    tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
    if (fd >= 0)
        status = tm_snapshot_write(fd, &options, &result);
    tm_pyf.PyEval_RestoreThread(tstate);
    if (status == 0)
        return tm_pyimage_adopt_fd(fd);
    if (fd >= 0)
        close(fd);
    if (status == -ENODEV)
        tm_py_raise(tm_pyf.runtime_error,
                    "the pytracemalloc module must be enabled to take a snapshot");
    else if (status == -ENOMEM || fd < 0)
        tm_pyf.PyErr_NoMemory();
    else
        tm_py_raise(tm_pyf.runtime_error, result.message);
    return NULL;
}

struct tm_pyimage *tm_pyimage_load(PyObj *path, bool with_traces)
{
    struct tm_pyimage *image = new_image();
    struct tms_error error = {0};
    PyObj *bytes = image ? tm_pyf.PyUnicode_EncodeFSDefault(path) : NULL;
    bool ok = false;
    if (bytes != NULL) {
        tm_py_tstate *tstate = tm_pyf.PyEval_SaveThread();
        ok = tms_file_open(&image->file, tm_pyf.PyBytes_AsString(bytes), TMS_OPEN_DEFAULT, &error);
        tm_pyf.PyEval_RestoreThread(tstate);
        if (!ok)
            raise_tms(&error, path);
        tm_py_decref(bytes);
    }
    if (!ok) {
        tm_pyimage_unref(image);
        return NULL;
    }
    look_inside(image);
    if (!with_traces)
        image->has_traces = false;
    return image;
}

/* ---- capsules ---- */

static void image_capsule_gone(PyObj *capsule)
{
    tm_pyimage_unref(tm_pyf.PyCapsule_GetPointer(capsule, CAPSULE));
    tm_pycapsules--;
}

PyObj *tm_pyimage_wrap(struct tm_pyimage *image)
{
    PyObj *capsule = image ? tm_pyf.PyCapsule_New(image, CAPSULE, image_capsule_gone) : NULL;
    if (capsule != NULL)
        tm_pycapsules++;
    else
        tm_pyimage_unref(image);
    return capsule;
}

struct tm_pyimage *tm_pyimage_get(PyObj *capsule)
{
    return tm_pyf.PyCapsule_GetPointer(capsule, CAPSULE);
}

/* ---- what Python sees ---- */

static struct tms_str image_string(const void *source, uint32_t id)
{
    return tms_file_string(source, id);
}

static struct tms_site image_site(const void *source, uint32_t id)
{
    return ((const struct tms_file *)source)->sites[id];
}

static struct tms_node image_node(const void *source, uint32_t id)
{
    return ((const struct tms_file *)source)->nodes[id];
}

struct tm_names tm_pyimage_names(const struct tm_pyimage *image)
{
    return (struct tm_names){
        .n_strings = image->file.n_strings,
        .n_sites = image->file.n_sites,
        .n_nodes = image->file.n_nodes,
        .source = &image->file,
        .string = image_string,
        .site = image_site,
        .node = image_node,
    };
}

PyObj *tm_image_py_take(PyObj *self, PyObj *args)
{
    int with_traces;
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "i", &with_traces))
        return NULL;
    return tm_pyimage_wrap(tm_pyimage_take(with_traces != 0));
}

PyObj *tm_image_py_load(PyObj *self, PyObj *args)
{
    PyObj *path;
    int with_traces;
    (void)self;
    if (!tm_pyf.PyArg_ParseTuple(args, "Oi", &path, &with_traces))
        return NULL;
    return tm_pyimage_wrap(tm_pyimage_load(path, with_traces != 0));
}

static PyObj *metric_value(const struct tms_metric *metric)
{
    return metric->format == TMS_METRIC_PERCENT ? tm_pyf.PyFloat_FromDouble(metric->value.f)
                                                : tm_pyf.PyLong_FromLongLong(metric->value.i);
}

static PyObj *metrics_of(const struct tms_file *file)
{
    static const char *const formats[] = {"int", "size", "percent"};
    PyObj *list = tm_pyf.PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < file->n_metrics; i++) {
        const struct tms_metric *metric = &file->metrics[i];
        struct tms_str name = tms_file_string(file, metric->name);
        const char *format = formats[metric->format < 3 ? metric->format : 0];
        PyObj *entry =
            tm_py_tuple2(tm_py_text(name.bytes ? name.bytes : "", name.n_bytes),
                         tm_py_tuple2(metric_value(metric), tm_py_text(format, strlen(format))));
        if (entry == NULL || tm_pyf.PyList_Append(list, entry) < 0) {
            tm_py_decref(entry);
            tm_py_decref(list);
            return NULL;
        }
        tm_py_decref(entry);
    }
    return list;
}

/* {"timestamp_ns", "pid", "traceback_limit", "traces", "stats", "count", "metrics": [(name, (value,
 * format))]} */
PyObj *tm_image_py_info(PyObj *self, PyObj *capsule)
{
    (void)self;
    struct tm_pyimage *image = tm_pyimage_get(capsule);
    PyObj *info = image ? tm_pyf.PyDict_New() : NULL;
    if (info == NULL)
        return NULL;
    const struct {
        const char *key;
        PyObj *value;
    } items[] = {
        {"timestamp_ns", tm_pyf.PyLong_FromUnsignedLongLong(image->file.timestamp_ns)},
        {"pid", tm_pyf.PyLong_FromLongLong(tms_file_fact_i64(&image->file, "pid", -1))},
        {"traceback_limit",
         tm_pyf.PyLong_FromLongLong(tms_file_fact_i64(&image->file, "traceback_limit", 1))},
        {"traces", tm_pyf.PyBool_FromLong(image->has_traces)},
        {"stats", tm_pyf.PyBool_FromLong(image->has_stats)},
        {"count", tm_pyf.PyLong_FromUnsignedLongLong(image->file.end.traces)},
        {"metrics", metrics_of(&image->file)},
    };
    for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++) {
        if (info != NULL && (items[i].value == NULL ||
                             tm_pyf.PyDict_SetItemString(info, items[i].key, items[i].value) < 0)) {
            tm_py_decref(info);
            info = NULL;
        }
        tm_py_decref(items[i].value);
    }
    return info;
}

struct columns {
    uint64_t address[TMS_GROUP_MAX], size_bytes[TMS_GROUP_MAX];
    uint32_t node[TMS_GROUP_MAX];
};

static bool fill_traces(const struct tms_file *file, struct tm_pynames *names, PyObj *dict)
{
    struct columns *columns = malloc(sizeof(*columns));
    struct tms_columns wanted;
    struct tms_error error = {0};
    bool ok = columns != NULL;
    if (!ok)
        tm_pyf.PyErr_NoMemory();
    for (uint32_t group = 0; ok && group < file->n_groups; group++) {
        wanted = (struct tms_columns){
            .address = columns->address, .size_bytes = columns->size_bytes, .node = columns->node};
        if (!tms_group_decode(file, group, &wanted, &error)) {
            raise_tms(&error, NULL);
            ok = false;
        }
        uint32_t count = ok ? file->groups[group].head->count : 0;
        for (uint32_t i = 0; ok && i < count; i++)
            ok = tm_pynames_add_trace(names, dict, columns->address[i], columns->size_bytes[i],
                                      columns->node[i]);
    }
    free(columns);
    return ok;
}

PyObj *tm_image_py_traces(PyObj *self, PyObj *capsule)
{
    (void)self;
    struct tm_pyimage *image = tm_pyimage_get(capsule);
    struct tm_pynames names;
    if (image == NULL)
        return NULL;
    if (!image->has_traces)
        return tm_py_none();
    struct tm_names source = tm_pyimage_names(image);
    PyObj *dict = tm_pyf.PyDict_New();
    bool ok = dict != NULL && tm_pynames_init(&names, &source);
    if (ok) {
        ok = fill_traces(&image->file, &names, dict);
        tm_pynames_done(&names);
    }
    if (!ok) {
        tm_py_decref(dict);
        return NULL;
    }
    return dict;
}

PyObj *tm_image_py_stats(PyObj *self, PyObj *capsule)
{
    (void)self;
    struct tm_pyimage *image = tm_pyimage_get(capsule);
    struct tm_pynames names;
    if (image == NULL)
        return NULL;
    if (!image->has_stats)
        return tm_py_none();
    struct tm_names source = tm_pyimage_names(image);
    PyObj *dict = tm_pyf.PyDict_New();
    bool ok = dict != NULL && tm_pynames_init(&names, &source);
    for (uint32_t i = 0; ok && i < image->file.n_stats; i++) {
        const struct tms_stat *stat = &image->file.stats[i];
        if (stat->live_blocks != 0)
            ok = tm_pynames_add_stat(&names, dict, stat->site, stat->live_bytes, stat->live_blocks);
    }
    if (dict != NULL)
        tm_pynames_done(&names);
    if (!ok) {
        tm_py_decref(dict);
        return NULL;
    }
    return dict;
}
