// SPDX-License-Identifier: MIT
/* Parallel decoding of row groups. libc and pthreads only. */
#include "analyzer/core/scan.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analyzer/core/sampled.h"

/* A thread costs about as much as decoding half a group, so each should get several. */
#define GROUPS_PER_THREAD 4u

struct scan {
    const struct tms_file *file;
    unsigned columns;
    tm_scan_rows rows;
    const uint64_t *first_rows;
    _Atomic uint32_t next_group;
    _Atomic bool stop;
};

struct worker {
    struct scan *scan;
    void *state;
    pthread_t thread;
    bool failed;
    uint64_t total_bytes;
    struct tms_error error;
};

unsigned tm_scan_threads(const struct tms_file *file)
{
    long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = file->n_groups / GROUPS_PER_THREAD;

    if (n_cpus < 1)
        n_cpus = 1;
    if (n > (unsigned long)n_cpus)
        n = (unsigned)n_cpus;
    if (n > TM_SCAN_THREADS_MAX)
        n = TM_SCAN_THREADS_MAX;
    return n ? n : 1;
}

static void fail(struct worker *worker, enum tms_error_code code, const char *message)
{
    worker->failed = true;
    worker->error.code = code;
    worker->error.sys_errno = 0;
    worker->error.offset = 0;
    snprintf(worker->error.message, sizeof worker->error.message, "%s", message);
    atomic_store(&worker->scan->stop, true);
}

/* One block for all columns asked for; pointers into it go to *ret. */
static void *allocate_columns(unsigned columns, struct tms_columns *ret)
{
    size_t n_bytes = 0;
    char *block, *p;

    memset(ret, 0, sizeof *ret);
    n_bytes += (columns & TM_SCAN_ADDRESS) ? 8 : 0;
    n_bytes += (columns & TM_SCAN_SIZE) ? 8 : 0;
    n_bytes += (columns & TM_SCAN_NODE) ? 4 : 0;
    n_bytes += (columns & TM_SCAN_AGE) ? 4 : 0;
    n_bytes += (columns & TM_SCAN_TYPE) ? 4 : 0;
    n_bytes += (columns & TM_SCAN_THREAD) ? 4 : 0;
    n_bytes += (columns & TM_SCAN_DOMAIN) ? 1 : 0;
    block = p = malloc(n_bytes * TMS_GROUP_MAX + 64);
    if (block == NULL)
        return NULL;
#define TAKE(flag, field)                                                                          \
    if (columns & (flag)) {                                                                        \
        ret->field = (void *)p;                                                                    \
        p += sizeof(*ret->field) * TMS_GROUP_MAX;                                                  \
    }
    TAKE(TM_SCAN_ADDRESS, address)
    TAKE(TM_SCAN_SIZE, size_bytes)
    TAKE(TM_SCAN_NODE, node)
    TAKE(TM_SCAN_AGE, age)
    TAKE(TM_SCAN_TYPE, type)
    TAKE(TM_SCAN_THREAD, thread)
    TAKE(TM_SCAN_DOMAIN, domain)
#undef TAKE
    return block;
}

static bool add_sizes(struct worker *worker, const struct tm_batch *batch)
{
    /* 65536 sizes below 2^47 cannot overflow; the or of all of them tells. */
    uint64_t sum = worker->total_bytes, any = 0;

    for (uint32_t i = 0; i < batch->count; i++) {
        sum += batch->column.size_bytes[i];
        any |= batch->column.size_bytes[i];
    }
    if (any >> 46) {
        sum = worker->total_bytes;
        for (uint32_t i = 0; i < batch->count; i++) {
            uint64_t size_bytes = batch->column.size_bytes[i];
            if (size_bytes >> 63 || (sum += size_bytes) >> 63)
                return false;
        }
    }
    worker->total_bytes = sum;
    return sum >> 63 == 0;
}

static void *work(void *data)
{
    struct worker *worker = data;
    struct scan *scan = worker->scan;
    struct tms_columns columns;
    void *block = allocate_columns(scan->columns, &columns);
    struct tm_batch batch = {
        .column = {columns.address, columns.node, columns.size_bytes, columns.domain, columns.age,
                   columns.type, columns.thread},
        .sample_mean_bytes = tm_sampled_mean(scan->file),
    };
    uint32_t group;

    if (block == NULL) {
        fail(worker, TMS_E_MEMORY, "not enough memory");
        return NULL;
    }
    while (!atomic_load_explicit(&scan->stop, memory_order_relaxed) &&
           (group = atomic_fetch_add(&scan->next_group, 1)) < scan->file->n_groups) {
        batch.count = scan->file->groups[group].head->count;
        batch.first_row = scan->first_rows[group];
        /* Files are opened without the groups' checksums, since here several threads share them. */
        if (!tms_group_check(scan->file, group, &worker->error) ||
            !tms_group_decode(scan->file, group, &columns, &worker->error)) {
            worker->failed = true;
            atomic_store(&scan->stop, true);
        } else if (columns.size_bytes && !add_sizes(worker, &batch)) {
            fail(worker, TMS_E_CORRUPT, "the sizes of the traces add up to more than 2^63 bytes");
        } else if (!scan->rows(worker->state, &batch)) {
            fail(worker, TMS_E_MEMORY, "not enough memory");
        }
    }
    free(block);
    return NULL;
}

static bool collect(struct worker *workers, unsigned n, struct tms_error *error)
{
    uint64_t total_bytes = 0;

    for (unsigned i = 0; i < n; i++) {
        total_bytes += workers[i].total_bytes;
        if (!workers[i].failed && total_bytes >> 63)
            fail(&workers[i], TMS_E_CORRUPT,
                 "the sizes of the traces add up to more than 2^63 bytes");
        if (workers[i].failed) {
            *error = workers[i].error;
            return false;
        }
    }
    return true;
}

static uint64_t *number_rows(const struct tms_file *file)
{
    uint64_t *first_rows = malloc(((size_t)file->n_groups + 1) * sizeof *first_rows);
    uint64_t row = 0;

    for (uint32_t i = 0; first_rows && i < file->n_groups; i++) {
        first_rows[i] = row;
        row += file->groups[i].head->count;
    }
    return first_rows;
}

bool tm_scan(const struct tms_file *file, unsigned columns, tm_scan_rows rows, void *const *states,
             unsigned n_states, struct tms_error *error)
{
    struct scan scan = {.file = file, .columns = columns, .rows = rows};
    struct worker workers[TM_SCAN_THREADS_MAX];
    uint64_t *first_rows = number_rows(file);
    unsigned started;
    bool ok;

    if (n_states > TM_SCAN_THREADS_MAX)
        n_states = TM_SCAN_THREADS_MAX;
    memset(workers, 0, sizeof workers);
    for (unsigned i = 0; i < n_states; i++) {
        workers[i].scan = &scan;
        workers[i].state = states[i];
    }
    if (first_rows == NULL) {
        fail(&workers[0], TMS_E_MEMORY, "not enough memory");
        *error = workers[0].error;
        return false;
    }
    scan.first_rows = first_rows;
    /* Where a thread cannot be had, those that run do its share. */
    for (started = 1; started < n_states; started++) {
        if (pthread_create(&workers[started].thread, NULL, work, &workers[started]) != 0)
            break;
    }
    work(&workers[0]);
    for (unsigned i = 1; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    ok = collect(workers, started, error);
    free(first_rows);
    return ok;
}
