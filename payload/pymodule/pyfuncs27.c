// SPDX-License-Identifier: MIT
#include "payload/pymodule/pyfuncs27.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "payload/code.h"

static struct {
    PyObj *(*PyModule_New)(const char *);
    PyObj *(*PyCFunction_NewEx)(struct tm_py_method *, PyObj *self, PyObj *module_name);
    PyObj *(*PyInt_FromLong)(long);
    long (*PyInt_AsLong)(PyObj *);
    PyObj *(*PyLong_FromUnsignedLongLong)(unsigned long long);
    unsigned long long (*PyLong_AsUnsignedLongLong)(PyObj *);
    PyObj *(*PyString_FromStringAndSize)(const char *, PySize);
    char *(*PyString_AsString)(PyObj *);
    PySize (*PyString_Size)(PyObj *);
    PyObj *(*PyUnicode_AsEncodedString)(PyObj *, const char *, const char *);
    const char **Py_FileSystemDefaultEncoding;
    PyObj *string_type, *int_type, *unicode_type;
    PyObj **overflow_error;
} py27;

static bool is_a(PyObj *object, PyObj *type)
{
    return tm_pyf.PyObject_IsInstance(object, type) == 1;
}

/* ---- numbers ---- */

static PyObj *int_from_long_long(long long value)
{
    return py27.PyInt_FromLong((long)value);
}

static PyObj *int_from_unsigned(unsigned long long value)
{
    return value <= LONG_MAX ? py27.PyInt_FromLong((long)value)
                             : py27.PyLong_FromUnsignedLongLong(value);
}

/* PyLong_AsUnsignedLongLong of 2.7 takes a long and nothing else. */
static unsigned long long int_as_unsigned(PyObj *value)
{
    if (!is_a(value, tm_pyf.int_type) && !is_a(value, py27.int_type)) {
        tm_py_raise(tm_pyf.type_error, "an integer is required");
        return ~0ull;
    }
    if (!is_a(value, py27.int_type))
        return py27.PyLong_AsUnsignedLongLong(value);
    long number = py27.PyInt_AsLong(value);
    if (number >= 0)
        return (unsigned long long)number;
    tm_py_raise(*py27.overflow_error, "can't convert negative int to unsigned");
    return ~0ull;
}

/* ---- text ---- */

/* The bytes as which Python 3 writes U+DC80 to U+DCFF: ED B2 80 to ED B3 BF. */
static bool is_escape(const uint8_t *text, size_t left)
{
    return left >= 3 && text[0] == 0xed && (text[1] == 0xb2 || text[1] == 0xb3) &&
           (text[2] & 0xc0) == 0x80;
}

static PyObj *text_from_utf8(const char *bytes, PySize n_bytes, const char *errors)
{
    const uint8_t *text = (const uint8_t *)bytes;
    size_t n = (size_t)n_bytes, used = 0;
    (void)errors;
    if (n < 3 || memchr(bytes, 0xed, n) == NULL)
        return py27.PyString_FromStringAndSize(bytes, n_bytes);
    char *out = malloc(n);
    if (out == NULL)
        return tm_pyf.PyErr_NoMemory();
    for (size_t i = 0; i < n; used++) {
        bool escape = is_escape(text + i, n - i);
        out[used] = (char)(escape ? (text[i + 1] & 1) << 6 | (text[i + 2] & 0x3f) | 0x80 : text[i]);
        i += escape ? 3 : 1;
    }
    PyObj *str = py27.PyString_FromStringAndSize(out, (PySize)used);
    free(out);
    return str;
}

/* UTF-8 of a str, whose bytes can be any, or of a unicode, whose surrogates 2.7 encodes as others.
 */
static PyObj *utf8_of_text(PyObj *text, const char *encoding, const char *errors)
{
    (void)errors;
    if (is_a(text, py27.unicode_type))
        return py27.PyUnicode_AsEncodedString(text, encoding, "strict");
    if (!is_a(text, py27.string_type))
        return tm_py_raise(tm_pyf.type_error, "a str or unicode is required");
    size_t n_bytes = (size_t)py27.PyString_Size(text), room = 3 * n_bytes + 1;
    char *utf8 = malloc(room);
    if (utf8 == NULL)
        return tm_pyf.PyErr_NoMemory();
    n_bytes = tm_code_escape(py27.PyString_AsString(text), n_bytes, utf8, room);
    PyObj *bytes = py27.PyString_FromStringAndSize(utf8, (PySize)n_bytes);
    free(utf8);
    return bytes;
}

static PyObj *path_of_text(PyObj *text)
{
    const char *encoding = *py27.Py_FileSystemDefaultEncoding;
    if (is_a(text, py27.unicode_type))
        return py27.PyUnicode_AsEncodedString(text, encoding ? encoding : "utf-8", "strict");
    if (is_a(text, py27.string_type))
        return tm_py_incref(text);
    return tm_py_raise(tm_pyf.type_error, "a file name must be str or unicode");
}

/* ---- modules ---- */

/* Py_InitModule would put it into sys.modules, where an attached program has not asked for it. */
static PyObj *module_from_definition(struct tm_py_module_def *definition, int api_version)
{
    PyObj *module = py27.PyModule_New(definition->m_name);
    PyObj *name =
        py27.PyString_FromStringAndSize(definition->m_name, (PySize)strlen(definition->m_name));
    bool ok = module != NULL && name != NULL;
    (void)api_version;
    for (struct tm_py_method *method = definition->m_methods; ok && method->name; method++) {
        PyObj *function = py27.PyCFunction_NewEx(method, module, name);
        ok = function && tm_pyf.PyObject_SetAttrString(module, method->name, function) == 0;
        tm_py_decref(function);
    }
    tm_py_decref(name);
    if (ok)
        return module;
    tm_py_decref(module);
    return NULL;
}

/* ---- finding them ---- */

static bool find(void *place, const char *name, const char *other_name)
{
    void *symbol = tm_pyapi_find(name);
    if (symbol == NULL && other_name != NULL)
        symbol = tm_pyapi_find(other_name);
    memcpy(place, &symbol, sizeof(symbol));
    return symbol != NULL;
}

bool tm_pyfuncs27_load(char *message, size_t message_bytes)
{
    const struct {
        void *place;
        const char *name, *other_name;
    } wanted[] = {
        {&py27.PyModule_New, "PyModule_New", NULL},
        {&py27.PyCFunction_NewEx, "PyCFunction_NewEx", NULL},
        {&py27.PyInt_FromLong, "PyInt_FromLong", NULL},
        {&py27.PyInt_AsLong, "PyInt_AsLong", NULL},
        {&py27.PyLong_FromUnsignedLongLong, "PyLong_FromUnsignedLongLong", NULL},
        {&py27.PyLong_AsUnsignedLongLong, "PyLong_AsUnsignedLongLong", NULL},
        {&py27.PyString_FromStringAndSize, "PyString_FromStringAndSize", NULL},
        {&py27.PyString_AsString, "PyString_AsString", NULL},
        {&py27.PyString_Size, "PyString_Size", NULL},
        /* By how wide a Py_UNICODE is (Include/unicodeobject.h). */
        {&py27.PyUnicode_AsEncodedString, "PyUnicodeUCS4_AsEncodedString",
         "PyUnicodeUCS2_AsEncodedString"},
        {&py27.Py_FileSystemDefaultEncoding, "Py_FileSystemDefaultEncoding", NULL},
        {&py27.string_type, "PyString_Type", NULL},
        {&py27.int_type, "PyInt_Type", NULL},
        {&py27.unicode_type, "PyUnicode_Type", NULL},
        {&py27.overflow_error, "PyExc_OverflowError", NULL},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        if (find(wanted[i].place, wanted[i].name, wanted[i].other_name))
            continue;
        snprintf(message, message_bytes, "this Python %s does not export %s", tm_py.version,
                 wanted[i].name);
        return false;
    }
    return true;
}

void *tm_pyfuncs27_find(const char *name)
{
    static const struct {
        const char *name;
        void *ours;             /* or */
        const char *other_name; /* of an exported one */
    } table[] = {
        {"PyModule_Create2", (void *)module_from_definition, NULL},
        {"PyLong_FromLongLong", (void *)int_from_long_long, NULL},
        {"PyLong_FromUnsignedLongLong", (void *)int_from_unsigned, NULL},
        {"PyLong_AsUnsignedLongLong", (void *)int_as_unsigned, NULL},
        {"PyUnicode_DecodeUTF8", (void *)text_from_utf8, NULL},
        {"PyUnicode_AsEncodedString", (void *)utf8_of_text, NULL},
        {"PyUnicode_EncodeFSDefault", (void *)path_of_text, NULL},
        {"PyUnicode_InternFromString", NULL, "PyString_InternFromString"},
        {"PyBytes_AsString", NULL, "PyString_AsString"},
        {"PyBytes_Size", NULL, "PyString_Size"},
        {"PyBytes_FromStringAndSize", NULL, "PyString_FromStringAndSize"},
        {"PyUnicode_Type", NULL, "PyBaseString_Type"},
        {"PyExc_OSError", NULL, "PyExc_IOError"}, /* what its open() raises */
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].ours ? table[i].ours : tm_pyapi_find(table[i].other_name);
    return NULL;
}
