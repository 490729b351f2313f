# SPDX-License-Identifier: MIT
"""Runs under every Python, one scenario of argv[1] a process: what a program does around us."""
import os
import sys
import threading
import time

import pytracemalloc as t
from old import set_switch_interval, zeros


def at_exit_with_tasks():
    """Tracing, tasks and their thread are alive when Python goes down."""
    t.enable()
    task = t.Task(lambda: None)
    task.set_memory_threshold(1)
    task.set_delay(1)
    task.schedule()
    globals()["keep"] = [zeros(1000) for _ in range(1000)]


def at_exit_with_threads():
    at_exit_with_tasks()
    for _ in range(4):
        thread = threading.Thread(target=lambda make=bytearray: [make(100) for _ in iter(int, 1)])
        thread.daemon = True
        thread.start()
    time.sleep(0.2)


def long_call_without_threads():
    """A task is due while the main thread is in C for long, and no thread was ever started."""
    t.enable()
    calls = []
    task = t.Task(calls.append, 1)
    task.set_memory_threshold(1)
    task.schedule()
    compile("x = [1, 2, {}]\n" * 20000, "long.py", "exec")
    for _ in range(3):
        pass
    assert calls


def deleted_module():
    t.enable()
    task = t.Task(lambda: None)
    task.set_memory_threshold(1)
    task.schedule()
    snapshot = t.Snapshot.create(traces=True)
    del sys.modules["pytracemalloc"], sys.modules["_pytracemalloc"]
    del globals()["t"]
    import gc
    gc.collect()
    assert snapshot.top_by("line").stats
    import pytracemalloc
    assert pytracemalloc.is_enabled()
    assert pytracemalloc.get_tasks() == [task]


def subinterpreters():
    code = ("x = [bytearray(100) for _ in range(1000)]\n"
            "try:\n    import pytracemalloc\nexcept ImportError: pass\n"
            "else: raise SystemExit('imported')\n")
    t.enable()
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        try:
            import _interpreters as interpreters
        except ImportError:
            import _testcapi
            for _ in range(3):
                assert _testcapi.run_in_subinterp(code) == 0
            return
    for _ in range(3):
        interp = interpreters.create()
        interpreters.run_string(interp, code)
        interpreters.destroy(interp)
    assert t.get_traced_memory()[0] >= 0


IN_AN_INTERPRETER = """
import os, threading
keep = [bytearray(%(size)d) for _ in range(10)]
try:
    import pytracemalloc
except ImportError as error:
    os.write(%(told)d, b"refused\\n")
else:
    os.write(%(told)d, b"imported\\n")
stop = []
def work():
    mine = []
    while not stop:
        mine.append([bytearray(100 + len(mine) %% 700) for _ in range(20)])
        if len(mine) > 50:
            del mine[::2]
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
os.read(%(asked)d, 1)
stop.append(1)
for thread in threads:
    thread.join()
os.write(%(told)d, b"quiet\\n")
os.read(%(asked)d, 1)
del keep
"""


def own_gils():
    """Interpreters with a GIL of their own allocate side by side; the module is the main one's."""
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    rounds = int(os.environ.get("TM_GIL_ROUNDS", "20"))
    sizes = (1000003, 2000003)
    t.enable()
    running = []
    for size in sizes:
        told, asked = os.pipe(), os.pipe()
        code = IN_AN_INTERPRETER % {"size": size, "told": told[1], "asked": asked[0]}
        interp = interpreters.create()
        thread = threading.Thread(target=interpreters.run_string, args=(interp, code))
        thread.start()
        running.append((interp, thread, open(told[0], "rb"), asked[1]))
    for _, _, told, _ in running:
        assert told.readline() == b"refused\n"

    def blocks(snapshot):
        found = [size for size, _ in snapshot.traces.values()]
        return [found.count(size + 1) for size in sizes]  # a bytearray ends with a zero

    for i in range(rounds):
        snapshot = t.Snapshot.create(traces=True)
        total = sum(size for size, _ in snapshot.traces.values())
        assert total == sum(size for lines in snapshot.stats.values()
                            for size, _ in lines.values()), i
        assert i or blocks(snapshot) == [10, 10], blocks(snapshot)
        t.disable()
        assert t.get_traced_memory() == (0, 0)
        t.enable()
    keep = [zeros(1000 + i) for i in range(100)]
    assert [t.get_object_trace(data)[0] - i for i, data in enumerate(keep)] == [
        sys.getsizeof(keep[0])] * 100
    for _, _, told, asked in running:
        os.write(asked, b"x")
        assert told.readline() == b"quiet\n"
    t.clear_traces()
    import gc
    gc.collect()
    before = t.get_traced_memory()[0]
    for interp, thread, told, asked in running:
        os.write(asked, b"x")
        thread.join()
    if sys.version_info >= (3, 13):
        for interp, _, _, _ in running:
            interpreters.destroy(interp)
    assert 0 <= t.get_traced_memory()[0] < before + 100000, (before, t.get_traced_memory())
    snapshot = t.Snapshot.create(traces=True)
    assert blocks(snapshot) == [0, 0]
    assert snapshot.get_metric("tracemalloc.traced.size") >= 0
    if sys.version_info < (3, 13):  # 3.12.1 by itself hangs in both ends of such interpreters
        print("ok")
        sys.stdout.flush()
        os._exit(0)


def forks_under_threads():
    t.enable()
    task = t.Task(lambda: None)
    task.set_memory_threshold(10)
    task.schedule()
    stop = []
    threads = [threading.Thread(target=lambda: [zeros(100) for _ in iter(lambda: bool(stop), True)])
               for _ in range(4)]
    for thread in threads:
        thread.start()
    set_switch_interval(0.0005)  # or each round waits for four threads' turns
    for i in range(20):
        pid = os.fork()
        if pid == 0:
            assert not t.is_enabled() and t.get_tasks() == []
            t.enable()
            keep = [zeros(100) for _ in range(100)]
            assert t.get_traced_memory()[0] >= 10000
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    stop.append(1)
    for thread in threads:
        thread.join()
    assert t.is_enabled()


try:
    globals()[sys.argv[1]]()
except BaseException:
    import traceback
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)  # there may be threads that wait for us
print("ok")
