# SPDX-License-Identifier: MIT
"""Imports the module that argv[1] names, allocates until its stdin ends, and says that it is well."""
from __future__ import print_function

import sys
import threading

__import__(sys.argv[1])


def work():
    while not done.is_set():
        blocks = [bytearray(size) for size in range(100)]
        del blocks
        done.wait(0.001)


done = threading.Event()
thread = threading.Thread(target=work)
thread.start()
print("ready")
sys.stdout.flush()
sys.stdin.read()
done.set()
thread.join()
print("well")
