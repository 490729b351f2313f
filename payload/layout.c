// SPDX-License-Identifier: MIT
#include "payload/layout.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "payload/frames.h"
#include "payload/layout_self.h"
#include "payload/layout_table.h"
#include "payload/pyapi.h"

struct tm_layout tm_layout;
int tm_layout_table_index = -1;

const char *tm_layout_source_name(void)
{
    return tm_layout_source_text(tm_layout.source);
}

/*
 * _Py_DebugOffsets of 3.13 (Include/internal/pycore_debug_offsets.h): 64-bit numbers behind the
 * cookie. The places below are byte offsets in it, read from the DWARF of 3.13.0; what it does not
 * tell stays as the table has it, moved along with co_code_adaptive. False: there are none.
 */
static bool apply_debug_offsets(struct tm_layout *layout)
{
    const char *runtime = tm_py.runtime;
    if (runtime == NULL || memcmp(runtime, "xdebugpy", 8) != 0)
        return false;
    const uint64_t *at = (const uint64_t *)runtime;
    if (at[1] >> 16 != 0x030d || (at[16 / 8] != 0) != tm_py.free_threaded)
        return false;
    layout->tstate_next = (int32_t)at[168 / 8];
    layout->tstate_interp = (int32_t)at[176 / 8];
    layout->tstate_current_frame = (int32_t)at[184 / 8];
    layout->tstate_thread_id = (int32_t)at[192 / 8];
    layout->iframe_previous = (int32_t)at[232 / 8];
    layout->iframe_code = (int32_t)at[240 / 8];
    layout->iframe_instr = (int32_t)at[248 / 8];
    layout->iframe_owner = (int32_t)at[264 / 8];
    layout->code_filename = (int32_t)at[280 / 8];
    layout->code_name = (int32_t)at[288 / 8];
    layout->code_qualname = (int32_t)at[296 / 8];
    layout->code_firstlineno = (int32_t)at[312 / 8];
    layout->code_firsttraceable += (int32_t)at[344 / 8] - layout->code_adaptive;
    layout->code_adaptive = (int32_t)at[344 / 8];
    layout->object_type = (int32_t)at[360 / 8];
    layout->code_nbytes_size = (int32_t)at[416 / 8];
    layout->ascii_state = (int32_t)at[544 / 8];
    layout->ascii_length = (int32_t)at[552 / 8];
    layout->compact_size += (int32_t)at[560 / 8] - layout->ascii_size;
    layout->ascii_size = (int32_t)at[560 / 8];
    layout->source = TM_LAYOUT_DEBUG_OFFSETS;
    return true;
}

static bool same_offsets(const struct tm_layout *a, const struct tm_layout *b)
{
    size_t start = offsetof(struct tm_layout, tstate_frame);
    return memcmp((const char *)a + start, (const char *)b + start, sizeof(*a) - start) == 0;
}

/* The DWARF of the very interpreter, and what it does not tell from the table (e.g. the layout of
 * 2.7's str, which another compilation unit may hold). */
static struct tm_layout merge(const struct tm_layout *dwarf, const struct tm_layout *row)
{
    struct tm_layout merged = *dwarf;
    int32_t *field = &merged.tstate_frame;
    const int32_t *known = &row->tstate_frame;
    size_t n = (sizeof(merged) - offsetof(struct tm_layout, tstate_frame)) / sizeof(*field);

    if (row->source == TM_LAYOUT_NONE)
        return merged;
    for (size_t i = 0; i < n; i++)
        if (field[i] == TM_NO_FIELD)
            field[i] = known[i];
    return merged;
}

/* Every field that is read without a further look is there. */
static bool is_whole(const struct tm_layout *l)
{
    const int32_t always[] = {l->tstate_interp, l->tstate_thread_id, l->code_filename,
                              l->code_name,     l->code_firstlineno, l->ascii_length,
                              l->ascii_size,    l->object_type};
    const int32_t objects[] = {l->tstate_frame, l->frame_back, l->frame_code, l->frame_lasti};
    const int32_t interpreter[] = {l->iframe_code,   l->iframe_previous,    l->iframe_instr,
                                   l->iframe_owner,  l->code_adaptive,      l->code_nbytes_size,
                                   l->code_qualname, l->code_firsttraceable};
    bool whole = true;

    for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
        whole = whole && always[i] != TM_NO_FIELD;
    if (l->tstate_frame != TM_NO_FIELD) {
        for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++)
            whole = whole && objects[i] != TM_NO_FIELD;
        return whole;
    }
    for (size_t i = 0; i < sizeof(interpreter) / sizeof(interpreter[0]); i++)
        whole = whole && interpreter[i] != TM_NO_FIELD;
    return whole && (l->tstate_current_frame != TM_NO_FIELD ||
                     (l->tstate_cframe != TM_NO_FIELD && l->cframe_current_frame != TM_NO_FIELD));
}

bool tm_layout_choose(const struct tm_layout *dwarf, char *message, size_t message_bytes)
{
    uint32_t version = tm_py.version_hex >> 16;
    struct tm_layout chosen = {0};
    for (size_t i = 0; i < TM_LAYOUT_TABLE_COUNT; i++)
        if (tm_layout_table[i].py_version == version) {
            chosen = tm_layout_table[i];
            chosen.source = TM_LAYOUT_TABLE;
        }
    tm_layout_table_index = -1;
    /* The objects of a free-threaded build have a longer head: the table has another build's
     * offsets, and may not fill in what the DWARF leaves out. */
    if (tm_py.free_threaded) {
        if (chosen.source == TM_LAYOUT_TABLE && !apply_debug_offsets(&chosen))
            chosen = (struct tm_layout){0};
    } else if (dwarf != NULL && dwarf->source == TM_LAYOUT_DWARF && dwarf->py_version == version)
        chosen = merge(dwarf, &chosen);
    if (version == 0x0207) {
        /* Debug information is read for str objects as they are since 3.3. */
        chosen.ascii_length = tm_layout_table[TM_LAYOUT_2_7].ascii_length;
        chosen.ascii_size = tm_layout_table[TM_LAYOUT_2_7].ascii_size;
        chosen.ascii_state = chosen.compact_size = TM_NO_FIELD;
    }
    if (chosen.source == TM_LAYOUT_TABLE)
        apply_debug_offsets(&chosen);
    if (chosen.source == TM_LAYOUT_NONE) {
        snprintf(
            message, message_bytes,
            "the frame layout of %sPython %s is not known; tm knows CPython 2.7 and 3.3 to 3.13",
            tm_py.free_threaded ? "free-threaded " : "", tm_py.version);
        return false;
    }
    if (!is_whole(&chosen)) {
        snprintf(
            message, message_bytes,
            "the struct layouts of Python %s are not whole: its debug information does not tell "
            "all that tracing reads",
            tm_py.version);
        return false;
    }
    tm_layout = chosen;
    for (int i = 0; i < (int)TM_LAYOUT_TABLE_COUNT; i++)
        if (tm_layout_table[i].py_version == version && same_offsets(&tm_layout_table[i], &chosen))
            tm_layout_table_index = i;
    return true;
}

/* ---- the check ---- */

enum { CHECK_FRAMES = 100, CHECK_THREADS = 256, CHECK_ATTEMPTS = 5 };

static long attr_long(tm_py_object *object, const char *name)
{
    tm_py_object *value = tm_py.PyObject_GetAttrString(object, name);
    if (value == NULL) {
        tm_py.PyErr_Clear();
        return -2;
    }
    long number = tm_py.PyLong_AsLong(value);
    tm_py.Py_DecRef(value);
    tm_py.PyErr_Clear();
    return number;
}

/* A new reference to an attribute; NULL for None and for errors. */
static tm_py_object *attr_object(tm_py_object *object, const char *name)
{
    tm_py_object *value = tm_py.PyObject_GetAttrString(object, name);
    if (value == NULL) {
        tm_py.PyErr_Clear();
        return NULL;
    }
    if (value == tm_py.none) {
        tm_py.Py_DecRef(value);
        return NULL;
    }
    return value;
}

static tm_frame_ref skip_incomplete(tm_frame_ref frame)
{
    while (frame != 0 && !tm_frames_is_shown(&tm_layout, frame))
        frame = tm_frames_back(&tm_layout, frame);
    return frame;
}

/* The layout's view of one thread against a frame object (borrowed) of the same thread. */
static bool check_stack(uint64_t tstate, tm_py_object *top)
{
    tm_frame_ref frame = skip_incomplete(tm_frames_top(&tm_layout, tstate));
    tm_py_object *object = top;
    tm_py.Py_IncRef(object);
    bool same = true;
    for (int i = 0; i < CHECK_FRAMES && same && object != NULL; i++) {
        tm_py_object *code = attr_object(object, "f_code");
        long lasti = attr_long(object, "f_lasti");
        same = frame != 0 && code != NULL && tm_frames_code(&tm_layout, frame) == (uint64_t)code;
        if (same) {
            int32_t ours = tm_frames_lasti_bytes(frame);
            same = (ours < 0 ? -1 : ours) == (lasti < 0 ? -1 : lasti);
            frame = skip_incomplete(tm_frames_back(&tm_layout, frame));
        }
        if (code != NULL)
            tm_py.Py_DecRef(code);
        tm_py_object *back = attr_object(object, "f_back");
        tm_py.Py_DecRef(object);
        object = back;
    }
    if (same && object == NULL && frame != 0)
        same = false;
    if (object != NULL)
        tm_py.Py_DecRef(object);
    return same;
}

struct check {
    int thread_states; /* with the thread id that is looked for, under this GIL */
    bool same;         /* one of them has these frames */
    bool broken;       /* a thread state does not even know its interpreter */
};

/* A thread that is in several interpreters has a thread state in each, and the C API tells the
 * frames of one of them. */
static void check_thread(struct check *check, void *interp, unsigned long thread_id,
                         tm_py_object *top)
{
    tm_py_tstate *tstate = tm_py.PyInterpreterState_ThreadHead(interp);
    for (; tstate != NULL && !check->same; tstate = tm_py.PyThreadState_Next(tstate)) {
        uint64_t addr = (uint64_t)tstate;
        if (tm_frames_load(addr + (uint32_t)tm_layout.tstate_interp) != (uint64_t)interp)
            check->broken = true;
        if (tm_frames_load(addr + (uint32_t)tm_layout.tstate_thread_id) != thread_id)
            continue;
        check->thread_states++;
        check->same = check_stack(addr, top);
    }
}

static bool check_once(tm_py_object *frames)
{
    /* From 3.12 on other interpreters may have a GIL of their own: their threads are moving. */
    bool main_only = tm_py.version_hex >= 0x030c0000 && tm_py.PyInterpreterState_Main != NULL;
    long position = 0;
    tm_py_object *key, *value;
    for (int n = 0; n < CHECK_THREADS && tm_py.PyDict_Next(frames, &position, &key, &value); n++) {
        unsigned long thread_id = tm_py.PyLong_AsUnsignedLong(key);
        struct check check = {0, false, false};
        if (main_only)
            check_thread(&check, tm_py.PyInterpreterState_Main(), thread_id, value);
        else
            for (void *interp = tm_py.PyInterpreterState_Head(); interp != NULL;
                 interp = tm_py.PyInterpreterState_Next(interp))
                check_thread(&check, interp, thread_id, value);
        if (check.broken || (!check.same && (check.thread_states != 0 || !main_only)))
            return false;
    }
    return true;
}

static bool check_threads(char *message, size_t message_bytes, bool *ret_same)
{
    bool same = false;
    /* Asking for frames makes objects, and up to 3.11 that may run the garbage collector,
     * finalizers and so other threads: a difference counts when it stays. */
    for (int attempt = 0; attempt < CHECK_ATTEMPTS && !same; attempt++) {
        tm_py_object *frames = tm_py.PyThread_CurrentFrames();
        if (frames == NULL) {
            tm_py.PyErr_Clear();
            snprintf(message, message_bytes, "Python does not tell its threads' frames");
            return false;
        }
        same = check_once(frames);
        tm_py.Py_DecRef(frames);
    }
    *ret_same = same;
    return true;
}

bool tm_layout_check(char *message, size_t message_bytes)
{
    bool same = false;
    if (tm_py.free_threaded)
        same = tm_layout_check_self(check_stack);
    else if (!check_threads(message, message_bytes, &same))
        return false;
    if (!same)
        snprintf(message, message_bytes,
                 "the %s frame layout does not fit this Python %s (its threads' frames read "
                 "differently through the C API); tracing would show wrong lines",
                 tm_layout_source_name(), tm_py.version);
    return same;
}

/*
 * struct _ceval_runtime_state of 3.8 (Include/internal/pycore_pystate.h): recursion_limit,
 * tracing_possible, eval_breaker, gil_drop_request, then pending: finishing, lock, calls_to_do,
 * async_exc, 32 calls of two words, first, last. It lies 0x248 bytes into _PyRuntime in 3.8.18;
 * what is before it may be of another size in another build, so it is known by what it holds.
 */
enum { CEVAL_FIRST = 0x80, CEVAL_LAST = 0x400, PENDING_CALLS = 32, PENDING_FIRST = 40 + 32 * 16 };

static bool is_flag(int number)
{
    return number == 0 || number == 1;
}

static bool is_ceval_3_8(const char *at, int recursion_limit)
{
    const int *numbers = (const int *)at, *after_calls = (const int *)(at + PENDING_FIRST);
    uint64_t lock = *(const uint64_t *)(at + 24);
    return numbers[0] == recursion_limit && numbers[1] >= 0 && is_flag(numbers[2]) &&
           is_flag(numbers[3]) && is_flag(numbers[4]) && lock > 0xffff && lock % 8 == 0 &&
           is_flag(numbers[8]) && is_flag(numbers[9]) && after_calls[0] >= 0 &&
           after_calls[0] < PENDING_CALLS && after_calls[1] >= 0 && after_calls[1] < PENDING_CALLS;
}

const int *tm_layout_find_finishing(void)
{
    void *found = tm_pyapi_find("Py_GetRecursionLimit");
    const char *runtime = tm_py.runtime;
    int (*get_limit)(void);
    if (tm_py.version_hex >> 16 != 0x0308 || runtime == NULL || found == NULL)
        return NULL;
    memcpy(&get_limit, &found, sizeof(get_limit));
    for (size_t at = CEVAL_FIRST; at < CEVAL_LAST; at += 8)
        if (is_ceval_3_8(runtime + at, get_limit()))
            return (const int *)(runtime + at + 16);
    return NULL;
}
