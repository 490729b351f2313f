# SPDX-License-Identifier: MIT
"""A thread that calls exec all the time, which fails. Argument: a file that is no program."""
import os
import sys
import threading
import time

from _victim import obey, read_command, say


def run():
    while True:
        try:
            os.execv(sys.argv[1], [sys.argv[1]])
        except OSError:
            pass
        time.sleep(0.0005)


thread = threading.Thread(target=run)
thread.daemon = True
thread.start()
say("ready", 1)
while True:
    obey(read_command())
