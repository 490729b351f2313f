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


def call_replaced():
    """Loads one library, takes it out, and calls another that comes to its place at once."""
    import _ctypes

    def load(path):
        library = ctypes.CDLL(path)
        return library, ctypes.cast(library.tm_test_enter, ctypes.c_void_p).value
    for _ in range(50):
        library, first = load(sys.argv[2])
        call_extension(library, last=False)
        _ctypes.dlclose(library._handle)
        library, second = load(sys.argv[3])
        if first == second:
            break
        _ctypes.dlclose(library._handle)  # a map of somebody else's was quicker
    say("places", first, second)
    call_extension(library, last=True)
    _ctypes.dlclose(library._handle)


def call_threads():
    """Native frames on small stacks, on an alternate one in a signal handler, deep recursion."""
    import signal
    import threading

    def descend(depth):
        return [object()] + descend(depth - 1) if depth else [sorted([2, 1], key=lambda x: [x])]

    def work():
        for _ in range(int(sys.argv[3])):
            descend(60)
            json.loads('{"a": [1, {"b": 2}]}', object_hook=lambda value: [value, bytes(700)])
    signal.signal(signal.SIGALRM, lambda *_: descend(20))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    for size in (1 << 18, 1 << 20, 0):
        threading.stack_size(size)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    descend(700)
    if hasattr(early, "tm_test_other_stack"):
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda value: len(descend(5)))
        for _ in range(int(sys.argv[3])):
            early.tm_test_other_stack(callback, 5)
    signal.setitimer(signal.ITIMER_REAL, 0)
    keep()


def call_extension(library=None, last=True):
    library = library or early
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(keep if last else lambda _: len([0]))
    library.tm_test_enter(callback, 5)


def call_growing():
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(
        lambda value: kept.append(bytearray(SIZE)) or len(kept))
    early.tm_test_enter(callback, 5)


early = ctypes.CDLL(sys.argv[2]) if sys.argv[1] in ("extension", "threads", "growing") else None
say("ready", 1)
while sys.stdin.readline():
    globals()["call_" + sys.argv[1]]()
    say("done")
