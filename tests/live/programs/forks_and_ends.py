# SPDX-License-Identifier: MIT
"""What happens to a traced process at its forks and at its end. Arguments: a path, a scenario."""
from __future__ import print_function

import os
import subprocess
import sys
import threading
import time

import engine
import tms

PATH, SCENARIO = sys.argv[1], sys.argv[2]
stopping = False
first_snapshot = threading.Event()


def churn():
    while not stopping:
        kept = [bytearray(n) for n in range(200)]
        kept[-1].extend(bytearray(100000))


def start(function):
    thread = threading.Thread(target=function)
    thread.daemon = True
    thread.start()


def start_churning(n=4):
    for _ in range(n):
        start(churn)


def say(*words):
    print(*words)
    sys.stdout.flush()


def snapshots():
    number = 0
    while True:
        number += 1
        try:
            engine.snapshot(PATH, counter=number)
            first_snapshot.set()
        except engine.EngineError:
            pass


def in_child(fresh_path):
    totals = engine.totals()
    assert totals.traced_bytes == totals.traced_blocks == 0, "the child starts untraced"
    kept = [str(n) * 10 for n in range(10000)]
    del kept[::2]
    assert engine.totals().traced_blocks == 0
    engine.enable(3)
    size = 1000
    kept = [b"x" * size for n in range(1000)]
    engine.snapshot(fresh_path)
    snapshot = tms.File(fresh_path)
    snapshot.check()
    assert sum(t.size == sys.getsizeof(kept[0]) for t in snapshot.traces) == 1000
    assert int(snapshot.facts["pid"]) == os.getpid()
    assert engine.disable() == 0
    engine.enable(1)
    assert engine.totals().traced_blocks < 1000
    os.unlink(fresh_path)


def forks():
    engine.enable(5)
    start_churning()
    start(snapshots)
    for i in range(40):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                global stopping
                stopping = True
                in_child("%s.%d" % (PATH, os.getpid()))
                if i % 10 == 0:
                    grandchild = os.fork()
                    if grandchild == 0:
                        in_child("%s.%d" % (PATH, os.getpid()))
                        os._exit(0)
                    assert os.waitpid(grandchild, 0)[1] == 0
                code = 0
            finally:
                os._exit(code)
        end = time.time() + 60
        status = (0, 0)
        while status == (0, 0):
            status = os.waitpid(pid, os.WNOHANG)
            assert time.time() < end, "a child hangs"
            time.sleep(0.002)
        assert status[1] == 0, status
    assert subprocess.call([sys.executable, "-c", "print(1)"]) == 0
    assert engine.totals().traced_blocks > 0
    say("forked")
    os._exit(0)


def ends():
    engine.enable(16)
    if SCENARIO == "exit" and sys.version_info[0] == 2:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # its daemon threads complain at the end
    start_churning()
    start(snapshots)
    first_snapshot.wait()  # and the next one is being written
    say("ended")
    if SCENARIO == "exit":
        return
    if SCENARIO == "_exit":
        os._exit(0)
    if SCENARIO == "exec":
        os.execv(sys.executable, [sys.executable, "-c", "pass"])
    if SCENARIO == "abrupt":
        os.kill(os.getpid(), 9)


def switches():
    """On and off while threads allocate and snapshots are written."""
    start_churning()
    start(snapshots)
    log = engine.ctypes.PyDLL(os.path.join(engine.LIB_DIR, "libtm-alloc-log.so"))
    log.raw_churn_start.restype = engine.ctypes.c_void_p
    log.raw_churn_start(1)
    log.raw_churn_start(2)
    done, end = 0, time.time() + 120
    while done < 20:
        assert time.time() < end, done
        try:
            engine.enable(done % 20)
        except engine.EngineError as error:
            assert "still being written" in str(error)
            time.sleep(0.001)
            continue
        time.sleep(0.005)
        done += 1
        assert engine.disable() == 0
    say("switched", done)
    os._exit(0)


forks() if SCENARIO == "fork" else switches() if SCENARIO == "switch" else ends()
