// SPDX-License-Identifier: MIT
/*
 * Fuzzes the reader of pickles: whatever it accepts must give a .tms image that
 * the reader of .tms files takes, and that can be grouped.
 */
#include <stdlib.h>
#include <string.h>

#include "analyzer/core/grouping.h"
#include "analyzer/pickle_load.h"
#include "format/tms_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void group_all(const struct tms_file *file)
{
    struct tm_model model;
    struct tm_image image;
    struct tms_error error = {0};

    if (!tm_model_init(&model) || !tm_image_init(&image, &model, file))
        abort();
    for (enum tm_group_by by = TM_BY_LINE; by < TM_BY_COUNT; by++) {
        struct tm_groups groups;
        /* Sizes may add up to too much, and there may be stats only. */
        if (tm_groups_make(&image, by, TM_GROUP_CUMULATIVE, &groups, &error))
            tm_groups_done(&groups);
        else if (error.message[0] == '\0')
            abort();
    }
    tm_image_done(&image);
    tm_model_done(&model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct stat st = {.st_size = (off_t)n_bytes, .st_mtim = {.tv_sec = 1380800079}};
    struct tms_error reason = {0};
    struct tms_file file;
    GError *error = NULL;
    gsize image_bytes;
    void *image = tm_pickle_load_memory(data, &st, &image_bytes, &error);

    if (image == NULL) {
        if (error == NULL)
            abort();
        g_error_free(error);
        return 0;
    }
    if (!tms_file_open_memory(&file, image, image_bytes, TMS_OPEN_DEFAULT, &reason))
        abort();
    group_all(&file);
    tms_file_close(&file);
    tm_pickle_unload(image, image_bytes);
    return 0;
}
