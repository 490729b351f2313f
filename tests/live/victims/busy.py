# SPDX-License-Identifier: MIT
"""One thread, busy in pure Python: it never blocks and never lets go of the GIL by itself."""
import _victim


def compute(rounds):
    total = 0
    for i in range(rounds):
        total = (total * 31 + i) % 1000003
    return total


_victim.say("ready", 1)
while True:
    compute(2000)
    _victim.beat(0)
    words = _victim.poll_command()
    if words:
        _victim.obey(words)
