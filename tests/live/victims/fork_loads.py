# SPDX-License-Identifier: MIT
"""Forks all the time; each child loads a library, as an import would. Argument: a library.
"stop" ends it: it says how many children there were and how many did not end by themselves."""
import ctypes
import os
import signal
import sys
import threading

from _victim import say

stop = []


def read():
    sys.stdin.readline()
    stop.append(True)


def child():
    signal.alarm(20)
    ctypes.CDLL(sys.argv[1])
    os._exit(0)


say("ready", 1)
threading.Thread(target=read, daemon=True).start()
count = stuck = 0
while not stop:
    pid = os.fork()
    if pid == 0:
        child()
    stuck += os.waitpid(pid, 0)[1] != 0
    count += 1
say("children", count, stuck)
