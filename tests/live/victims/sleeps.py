# SPDX-License-Identifier: MIT
"""One thread that only sleeps; it looks for a command whenever it wakes."""
import time

import _victim

_victim.say("ready", 1)
while True:
    time.sleep(0.02)
    _victim.beat(0)
    words = _victim.poll_command()
    if words:
        _victim.obey(words)
