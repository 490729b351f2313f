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


globals()[sys.argv[1]]()
print("ok")
