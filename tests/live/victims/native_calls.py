# SPDX-License-Identifier: MIT
"""Native code that calls back into Python, which keeps a block of SIZE bytes and then waits.

Arguments: what to call, and the file of the extension library for "extension"."""
import ctypes
import json
import re
import sqlite3
import sys

from _victim import say

SIZE = 3456789
kept = []


def keep(*_):
    kept[:] = [bytearray(SIZE)]
    say("kept")
    sys.stdin.readline()
    return 0


def call_json():
    json.loads('{"a": [1, {"b": 2}]}', object_hook=lambda value: keep() or value)


def call_re():
    re.sub("b", lambda match: str(keep()), "abc")


def call_sqlite3():
    connection = sqlite3.connect(":memory:")
    connection.create_function("keep", 1, keep)
    connection.execute("select keep(7)").fetchall()


def call_ctypes():
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(keep)
    values = (ctypes.c_int * 2)(2, 1)
    ctypes.CDLL(None).qsort(values, 2, ctypes.sizeof(ctypes.c_int), compare)


def call_sorted():
    sorted([2, 1], key=keep)


def call_class():
    class Keeper(object):
        def __init__(self):
            keep()
    Keeper()


def call_generator():
    def numbers():
        yield keep()
    list(numbers())


def call_late():
    call_extension(ctypes.CDLL(sys.argv[2]))


def call_extension(library=None):
    library = library or early
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(keep)
    library.tm_test_enter(callback, 5)


early = ctypes.CDLL(sys.argv[2]) if sys.argv[1] == "extension" else None
say("ready", 1)
while sys.stdin.readline():
    globals()["call_" + sys.argv[1]]()
    say("done")
