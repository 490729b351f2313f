// SPDX-License-Identifier: MIT
#include "payload/code.h"

#include <stdio.h>
#include <string.h>

#include "format/utf8.h"
#include "payload/intern.h"
#include "payload/pyapi.h"

enum { NAME_BYTES = 4096, OWN_NAMES = 8, OWN_NAME_BYTES = 512 };

/* Where PyASCIIObject.state keeps its fields: kind (3 bits), compact, ascii. Bit 2 up to 3.13;
 * 3.14 made `interned` 16 bits wide (Include/cpython/unicodeobject.h). */
static int state_shift;

static char name_buf[NAME_BYTES]; /* tm_intern_lock */

/* Files of the tool's own Python code. An entry is complete when the count has passed it. */
static struct {
    size_t n_bytes;
    char bytes[OWN_NAME_BYTES];
} own_names[OWN_NAMES];
static _Atomic uint32_t own_count; /* grows under the GIL */

/* The number of bytes written; 0: there is no room for them. */
static size_t put_utf8(uint32_t c, char *out, size_t room)
{
    char bytes[TM_UTF8_MAX];
    size_t n_bytes = tm_utf8_encode(c, bytes);
    if (n_bytes > room)
        return 0;
    memcpy(out, bytes, n_bytes);
    return n_bytes;
}

static uint32_t read_char(const char *data, uint32_t kind, size_t i)
{
    if (kind == 1)
        return (uint8_t)data[i];
    if (kind == 2)
        return ((const uint16_t *)data)[i];
    return ((const uint32_t *)data)[i];
}

/* Decodes with the given place of the bit fields; SIZE_MAX where the object does not look so. */
static size_t decode_text(uint64_t str, int shift, char *buf, size_t buf_bytes)
{
    size_t length = tm_frames_load(str + (uint32_t)tm_layout.ascii_length);
    uint32_t state = *(const uint32_t *)(str + (uint32_t)tm_layout.ascii_state) >> shift;
    uint32_t kind = state & 7, compact = state >> 3 & 1, ascii = state >> 4 & 1;
    if ((kind != 1 && kind != 2 && kind != 4) || (ascii && kind != 1))
        return SIZE_MAX;
    const char *data =
        (const char *)str + (ascii && compact ? tm_layout.ascii_size : tm_layout.compact_size);
    if (!compact) {
        /* An instance of a subclass: a pointer to the text follows (PyUnicodeObject.data). */
        data = (const char *)tm_frames_load((uint64_t)data);
        if (data == NULL)
            return SIZE_MAX;
    }
    if (ascii) {
        size_t n_bytes = length < buf_bytes ? length : buf_bytes;
        memcpy(buf, data, n_bytes);
        return n_bytes;
    }
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        size_t n_bytes = put_utf8(read_char(data, kind, i), buf + used, buf_bytes - used);
        if (n_bytes == 0)
            break;
        used += n_bytes;
    }
    return used;
}

size_t tm_code_escape(const char *text, size_t length, char *buf, size_t buf_bytes)
{
    size_t used = 0;
    for (size_t i = 0; i < length;) {
        uint32_t c;
        size_t n = tm_utf8_decode(text + i, length - i, &c);
        if (n == 0 || tm_utf8_is_surrogate(c)) {
            size_t n_bytes = put_utf8(0xdc00u + (uint8_t)text[i], buf + used, buf_bytes - used);
            if (n_bytes == 0)
                break;
            used += n_bytes;
            i++;
            continue;
        }
        if (n > buf_bytes - used)
            break;
        memcpy(buf + used, text + i, n);
        used += n;
        i += n;
    }
    return used;
}

/* Of a 2.7 str. */
static size_t escape_str(uint64_t str, char *buf, size_t buf_bytes)
{
    return tm_code_escape((const char *)str + tm_layout.ascii_size,
                          tm_frames_load(str + (uint32_t)tm_layout.ascii_length), buf, buf_bytes);
}

size_t tm_code_text(uint64_t str, char *buf, size_t buf_bytes)
{
    if (tm_layout.ascii_state == TM_NO_FIELD)
        return escape_str(str, buf, buf_bytes);
    size_t n_bytes = decode_text(str, state_shift, buf, buf_bytes);
    return n_bytes == SIZE_MAX ? 0 : n_bytes;
}

/* 2.7: file names are str, which are bytes there. */
static bool check_bytes(void)
{
    static const char sample[] = "caf\xc3\xa9 \xe9.py", expected[] = "caf\xc3\xa9 \xed\xb3\xa9.py";
    char text[32];
    tm_py_object *str = tm_py.PyString_FromString ? tm_py.PyString_FromString(sample) : NULL;
    if (str == NULL)
        return false;
    size_t n_bytes = escape_str((uint64_t)str, text, sizeof(text));
    tm_py.Py_DecRef(str);
    return n_bytes == sizeof(expected) - 1 && memcmp(text, expected, n_bytes) == 0;
}

static bool find_state_shift(void)
{
    static const char *const samples[] = {"ascii", "caf\xc3\xa9", "\xe2\x82\xac uro",
                                          "\xf0\x9f\x90\x8d snake"};
    static const int shifts[] = {2, 16};
    for (size_t k = 0; k < sizeof(shifts) / sizeof(shifts[0]); k++) {
        size_t good = 0;
        for (size_t i = 0; i < 4; i++) {
            char text[32];
            tm_py_object *str = tm_py.PyUnicode_FromString(samples[i]);
            if (str == NULL)
                break;
            size_t n_bytes = decode_text((uint64_t)str, shifts[k], text, sizeof(text));
            tm_py.Py_DecRef(str);
            good += n_bytes == strlen(samples[i]) && memcmp(text, samples[i], n_bytes) == 0;
        }
        if (good == 4) {
            state_shift = shifts[k];
            return true;
        }
    }
    return false;
}

bool tm_code_setup(char *message, size_t message_bytes)
{
    if (tm_layout.ascii_state == TM_NO_FIELD ? check_bytes() : find_state_shift())
        return true;
    snprintf(message, message_bytes, "str objects of Python %s are not laid out as expected",
             tm_py.version);
    return false;
}

static uint32_t intern_str_locked(uint64_t str)
{
    if (str == 0)
        return TM_NONE;
    size_t n_bytes = tm_code_text(str, name_buf, sizeof(name_buf));
    if (n_bytes == 0)
        return TM_NONE;
    return tm_intern_string_locked(name_buf, (uint32_t)n_bytes);
}

uint32_t tm_code_site_locked(tm_frame_ref frame)
{
    uint64_t code = tm_frames_code(&tm_layout, frame);
    int32_t name =
        tm_layout.code_qualname != TM_NO_FIELD ? tm_layout.code_qualname : tm_layout.code_name;
    struct tm_site site = {
        .file = intern_str_locked(tm_frames_load(code + (uint32_t)tm_layout.code_filename)),
        .function = intern_str_locked(tm_frames_load(code + (uint32_t)name)),
        .first_line = *(const int32_t *)(code + (uint32_t)tm_layout.code_firstlineno),
        .line = tm_py.PyCode_Addr2Line((tm_py_object *)code, tm_frames_lasti_bytes(frame)),
    };
    if (site.line < 1)
        site.line = 0;
    return tm_intern_site_locked(&site);
}

static bool is_own_name(const char *name, size_t name_bytes)
{
    uint32_t n = atomic_load_explicit(&own_count, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++)
        if (own_names[i].n_bytes == name_bytes && memcmp(own_names[i].bytes, name, name_bytes) == 0)
            return true;
    return false;
}

bool tm_code_add_own(const char *name, size_t name_bytes)
{
    uint32_t n = atomic_load_explicit(&own_count, memory_order_relaxed);
    if (is_own_name(name, name_bytes))
        return true;
    if (n == OWN_NAMES || name_bytes > OWN_NAME_BYTES)
        return false;
    own_names[n].n_bytes = name_bytes;
    memcpy(own_names[n].bytes, name, name_bytes);
    atomic_store_explicit(&own_count, n + 1, memory_order_release);
    return true;
}

bool tm_code_is_own(uint32_t site)
{
    uint32_t file = tm_intern_site_at(site)->file;
    if (file == TM_NONE || atomic_load_explicit(&own_count, memory_order_relaxed) == 0)
        return false;
    const struct tm_string *name = tm_intern_string_at(file);
    return is_own_name((const char *)name->addr, name->n_bytes);
}
