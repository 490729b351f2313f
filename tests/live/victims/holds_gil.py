# SPDX-License-Identifier: MIT
"""Like reads.py; on "hang" its only thread waits for ever, and keeps the GIL."""
import ctypes

import _victim

_victim.say("ready", 1)
while True:
    words = _victim.read_command()
    if words[0] == "hang":
        _victim.say("hanging")
        ctypes.PyDLL(None).pause()
    _victim.obey(words)
    _victim.beat(0)
