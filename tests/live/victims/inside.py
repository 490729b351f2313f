# SPDX-License-Identifier: MIT
"""inside.py HELPER: "enter" sends a thread that Python knows nothing of into PyObject_Malloc, where
it stays behind the first instruction until "leave". HELPER is the path of libtm-victim-inside.so."""
import ctypes
import sys

import _victim

helper = ctypes.CDLL(sys.argv[1])
helper.tm_inside_leave.restype = ctypes.c_void_p
_victim.say("ready", 1)
while True:
    words = _victim.read_command()
    if words[0] == "enter":
        _victim.say("entered", helper.tm_inside_enter(ctypes.pythonapi.PyObject_Malloc))
    elif words[0] == "leave":
        block = helper.tm_inside_leave()
        ctypes.pythonapi.PyObject_Free(ctypes.c_void_p(block))
        _victim.say("left", int(block is not None))
    else:
        _victim.obey(words)
    _victim.beat(0)
