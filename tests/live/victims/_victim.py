# SPDX-License-Identifier: MIT
"""What all victims share. Runs on Python 2.7 and 3.3 and later.

The test and the victim have a shared page: 64 counters of 8 bytes (heartbeats),
then one command, NUL-terminated, for victims whose main thread must not block
in a read. Other victims read their commands from standard input. Answers are
lines on standard output.
"""
from __future__ import print_function

import ctypes
import mmap
import os
import struct
import sys

BEATS = 64
_page = None

# Where Yama lets only ancestors trace, let the test's tm-attach in (prctl's PR_SET_PTRACER).
try:
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
except AttributeError:
    pass

with open(os.environ["TM_VICTIM_PAGE"], "r+b") as _file:
    _page = mmap.mmap(_file.fileno(), 4096)


def beat(index):
    """Counts on counter `index`, so that the test sees the thread advance."""
    count, = struct.unpack_from("<Q", _page, 8 * index)
    struct.pack_into("<Q", _page, 8 * index, count + 1)


def say(*words):
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def read_command():
    """Blocks in a read of standard input. Ends the victim when the test has gone."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return line.split()


def poll_command():
    """The command in the shared page as a list of words, or [] at once."""
    raw = _page[8 * BEATS:8 * BEATS + 256]
    if raw[:1] == b"\0":
        return []
    _page[8 * BEATS:8 * BEATS + 1] = b"\0"
    return raw.split(b"\0")[0].decode().split()


KEEP = []


def leak(count, size_bytes, keep):
    """Allocates `count` blocks on one line, and on no other; `keep` has `count` places."""
    pattern = b"x"
    for i in range(count):
        keep[i] = pattern * size_bytes  # LEAK
    return count * sys.getsizeof(pattern * size_bytes)


def allocators():
    """The functions and contexts of the three domains as hexadecimal words; of a Python that has
    none, the first bytes of the functions that allocate."""
    try:
        get = ctypes.pythonapi.PyMem_GetAllocator
    except AttributeError:
        functions = [getattr(ctypes.pythonapi, name)
                     for name in ("PyObject_Malloc", "PyObject_Realloc", "PyObject_Free")]
        return ["".join("%02x" % byte for byte in bytearray(
            ctypes.string_at(ctypes.cast(function, ctypes.c_void_p), 16))) for function in functions]
    words = []
    for domain in range(3):
        # ctx, malloc, calloc (3.5 and later), realloc, free; room for more.
        record = (ctypes.c_size_t * 8)()
        get(ctypes.c_int(domain), ctypes.byref(record))
        words += ["%x" % word for word in record[:5]]
    return words


def obey(words):
    """Carries out the commands that every victim knows and answers with one line."""
    verb, args = words[0], [int(word) for word in words[1:]]
    if verb == "prepare":  # COUNT: room for that many blocks, so that the list need not grow
        KEEP[:] = [None] * args[0]
        say("prepared")
    elif verb == "leak":  # COUNT SIZE
        say("leaked", leak(args[0], args[1], KEEP))
    elif verb == "drop":
        KEEP[:] = []
        say("dropped")
    elif verb == "allocators":
        say("allocators", *allocators())
    elif verb == "quit":
        say("bye")
        sys.exit(0)
    else:
        say("unknown", verb)
