# SPDX-License-Identifier: MIT
"""blocked.py KIND: the main thread blocks in KIND for ever, or does so again and again; a second
thread beats twenty times a second, but for the kinds that end in -alone, which beat themselves."""
import os
import select
import signal
import socket
import sys
import threading
import time

import _victim


def recurse(depth):
    if depth == 0:
        while True:
            _victim.beat(0)
            time.sleep(0.05)
    return recurse(depth - 1)


def main(kind):
    if kind == "sleep":
        time.sleep(10000)
    elif kind == "select":
        select.select([], [], [], 10000)
    elif kind == "poll":
        select.poll().poll(10000000)
    elif kind == "epoll":
        select.epoll().poll(10000)
    elif kind == "event":
        threading.Event().wait()
    elif kind == "timed-event":
        threading.Event().wait(10000)
    elif kind == "join":
        beater.join()
    elif kind == "accept":
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        server.accept()
    elif kind == "pipe":
        os.read(os.pipe()[0], 1)
    elif kind == "waitpid":
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            while os.getppid() == parent:
                time.sleep(0.2)
            os._exit(0)
        os.waitpid(child, 0)
    elif kind == "sigwait":
        signal.sigwait([signal.SIGUSR2])
    elif kind == "deep-alone":
        sys.setrecursionlimit(10000)
        recurse(2000)
    elif kind == "signals-alone":
        signal.signal(signal.SIGALRM, lambda *args: None)
        signal.signal(signal.SIGPROF, lambda *args: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        while True:
            _victim.beat(0)
            sum(range(1000))
    elif kind == "thread-storm":
        while True:
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
    elif kind == "fork-storm":
        while True:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
    elif kind == "hash":
        import hashlib
        data = bytes(1 << 20)
        while True:
            hashlib.sha256(data).digest()
    else:
        raise SystemExit("unknown kind " + kind)


def beat_for_ever():
    while True:
        _victim.beat(0)
        time.sleep(0.05)


beater = threading.Thread(target=beat_for_ever if not sys.argv[1].endswith("-alone") else int)
beater.daemon = True
beater.start()
_victim.say("ready", 1 if sys.argv[1].endswith("-alone") else 2)
main(sys.argv[1])
