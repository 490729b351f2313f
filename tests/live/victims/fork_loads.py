# SPDX-License-Identifier: MIT
"""Forks all the time from one line on stdin to the next; each child loads a library, as an import
would. Then says how many children there were and how many did not end by themselves. Argument: the
library."""
import ctypes
import os
import select
import signal
import sys

from _victim import say


def child():
    signal.alarm(20)
    ctypes.CDLL(sys.argv[1])
    os._exit(0)


stdin = open(0, "rb", 0)  # no line is read ahead, which select would not see
say("ready", 1)
while stdin.readline():
    count = stuck = 0
    while not select.select([stdin], [], [], 0)[0]:
        pid = os.fork()
        if pid == 0:
            child()
        stuck += os.waitpid(pid, 0)[1] != 0
        count += 1
    stdin.readline()
    say("children", count, stuck)
