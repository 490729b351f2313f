# SPDX-License-Identifier: MIT
"""Waits on stdin; "fork": makes a child that leaks until "end" and says its pid."""
import os
import signal
import sys
import time

import _victim


def leak(kept):
    kept.append(bytes(100000))  # LEAK


def child_main():
    kept = []
    while True:
        leak(kept)
        if len(kept) > 100:
            del kept[:50]
        time.sleep(0.01)


_victim.say("ready", 1)
children = []
for line in sys.stdin:
    if line.strip() == "fork":
        pid = os.fork()
        if pid == 0:
            child_main()
        children.append(pid)
        _victim.say("forked", pid)
    elif line.strip() == "end":
        for pid in children:
            os.kill(pid, signal.SIGTERM)
            assert os.waitpid(pid, 0)[1] == signal.SIGTERM
        _victim.say("ended")
        break
