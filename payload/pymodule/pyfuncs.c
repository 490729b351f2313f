// SPDX-License-Identifier: MIT
#include "payload/pymodule/pyfuncs.h"

#include <stdio.h>
#include <string.h>

#include "payload/pymodule/pyfuncs27.h"

struct tm_pyfuncs tm_pyf;

struct wanted {
    void *place;
    const char *name;
    bool is_pointer; /* the symbol is a variable that holds the object's address */
};

static bool is_27(void)
{
    return tm_py.version_hex < 0x03000000;
}

static bool load_all(const struct wanted *wanted, size_t n, char *message, size_t message_bytes)
{
    for (size_t i = 0; i < n; i++) {
        void *symbol = is_27() ? tm_pyfuncs27_find(wanted[i].name) : NULL;
        if (symbol == NULL)
            symbol = tm_pyapi_find(wanted[i].name);
        if (symbol == NULL) {
            snprintf(message, message_bytes, "this Python %s does not export %s", tm_py.version,
                     wanted[i].name);
            return false;
        }
        if (wanted[i].is_pointer)
            symbol = *(void **)symbol;
        memcpy(wanted[i].place, &symbol, sizeof(symbol));
    }
    return true;
}

bool tm_pyfuncs_load(char *message, size_t message_bytes)
{
    static bool loaded;
    if (loaded)
        return true;
    if (is_27() && !tm_pyfuncs27_load(message, message_bytes))
        return false;
    const struct wanted wanted[] = {
#define X(type, name, parameters) {&tm_pyf.name, #name, false},
        TM_PY_FUNCTIONS(X)
#undef X
            {&tm_pyf.dict_type, "PyDict_Type", false},
        {&tm_pyf.tuple_type, "PyTuple_Type", false},
        {&tm_pyf.list_type, "PyList_Type", false},
        {&tm_pyf.str_type, "PyUnicode_Type", false},
        {&tm_pyf.int_type, "PyLong_Type", false},
        {&tm_pyf.true_object, "_Py_TrueStruct", false},
        {&tm_pyf.type_error, "PyExc_TypeError", true},
        {&tm_pyf.value_error, "PyExc_ValueError", true},
        {&tm_pyf.runtime_error, "PyExc_RuntimeError", true},
        {&tm_pyf.os_error, "PyExc_OSError", true},
        {&tm_pyf.memory_error, "PyExc_MemoryError", true},
        {&tm_pyf.import_error, "PyExc_ImportError", true},
        {&tm_pyf.not_implemented_error, "PyExc_NotImplementedError", true},
    };
    loaded = load_all(wanted, sizeof(wanted) / sizeof(wanted[0]), message, message_bytes);
    return loaded;
}
