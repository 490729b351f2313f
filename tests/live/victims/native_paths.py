# SPDX-License-Identifier: MIT
"""Takes blocks at the end of many paths of calls (tests/live/paths_extension.c), again and again
and in turn, so that the hooks meet the same stacks and others at the same places.

Arguments: the file of the extension library, and how many blocks. blocks.json is then a list of
address, size, path and the name of the first Python function."""
import ctypes
import json
import random
import sys

from _victim import say

CALL = ctypes.PYFUNCTYPE(ctypes.c_void_p)


class Walk(ctypes.Structure):
    _fields_ = [("at", ctypes.c_char_p), ("malloc", ctypes.c_void_p), ("size", ctypes.c_size_t),
                ("python_p", CALL), ("python_q", CALL)]


def again_p():
    return go(ctypes.byref(walk))


def again_q():
    return go(ctypes.byref(walk))


def first(path):
    walk.at = path
    return go(ctypes.byref(walk))


def second(path):
    walk.at = path
    return [go(ctypes.byref(walk))][0]


random.seed(7)
library = ctypes.PyDLL(sys.argv[1])
go = library.tm_paths_go
go.restype, go.argtypes = ctypes.c_void_p, [ctypes.POINTER(Walk)]
walk = Walk(None, ctypes.cast(ctypes.pythonapi.PyObject_Malloc, ctypes.c_void_p), 0,
            CALL(again_p), CALL(again_q))
# Short ones of few functions are often the same but for one call far out.
paths = ["".join(random.choice("01234") for _ in range(random.randrange(1, 9)))
         for _ in range(150)]
paths += ["".join(random.choice("01234pq") for _ in range(random.randrange(4, 12)))
          for _ in range(150)]
paths += ["333" + c + "3333" for c in "01234"] * 20
blocks = []
say("ready", 1)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    name, path, size = random.choice(["first", "second"]), random.choice(paths), 40 + number % 400
    walk.size = size
    blocks.append((globals()[name](path.encode()), size, path, name))
with open("blocks.json", "w") as file:
    json.dump(blocks, file)
say("kept")
sys.stdin.readline()
