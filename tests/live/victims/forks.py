# SPDX-License-Identifier: MIT
"""Sleeps and forks: every round a child allocates, checks itself and leaves with status 0."""
import os
import time

import _victim

_victim.say("ready", 1)
while True:
    child = os.fork()
    if child == 0:
        rows = [{"n": i, "name": "row %d" % i} for i in range(200)]
        os._exit(0 if len(rows) == 200 else 1)
    if os.waitpid(child, 0)[1] != 0:
        _victim.say("child failed")
        raise SystemExit(1)
    _victim.beat(0)
    time.sleep(0.01)
    words = _victim.poll_command()
    if words:
        _victim.obey(words)
