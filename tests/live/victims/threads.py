# SPDX-License-Identifier: MIT
"""The main thread blocked in a read; six threads that allocate honestly, work and sleep.

Commands are carried out on a thread of their own, which is born for each.
"""
import threading
import time

import _victim


def churn(index):
    while True:
        rows = [{"n": i, "name": "row %d" % i} for i in range(50)]
        rows.sort(key=lambda row: -row["n"])
        _victim.beat(index)
        if index % 2:
            time.sleep(0.001)


for number in range(1, 7):
    worker = threading.Thread(target=churn, args=(number,))
    worker.daemon = True
    worker.start()
_victim.say("ready", 7)
while True:
    command = _victim.read_command()
    if command[0] == "quit":
        _victim.obey(command)
    worker = threading.Thread(target=_victim.obey, args=(command,))
    worker.start()
    worker.join()
    _victim.beat(0)
