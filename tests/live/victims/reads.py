# SPDX-License-Identifier: MIT
"""One thread, blocked in a read of its standard input between commands."""
import _victim

_victim.say("ready", 1)
while True:
    _victim.obey(_victim.read_command())
    _victim.beat(0)
