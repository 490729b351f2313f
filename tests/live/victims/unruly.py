# SPDX-License-Identifier: MIT
"""Threads that are born and die all the time, and two that compute in C without the GIL."""
import hashlib
import threading
import time
import zlib

import _victim

stopping = []


def compute():
    data = b"x" * 4000000
    while not stopping:
        zlib.crc32(zlib.compress(data, 1))
        hashlib.md5(data).digest()
        _victim.beat(1)


def live_shortly():
    [str(i) for i in range(200)]


def breed():
    while not stopping:
        worker = threading.Thread(target=live_shortly)
        worker.start()
        worker.join()
        _victim.beat(2)
        time.sleep(0.001)


for target in (compute, compute, breed):
    thread = threading.Thread(target=target)
    thread.daemon = True
    thread.start()
_victim.say("ready", 4)
while True:
    words = _victim.read_command()
    if words[0] == "quit":
        stopping.append(True)
        time.sleep(0.2)
    _victim.obey(words)
    _victim.beat(0)
