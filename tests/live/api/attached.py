# SPDX-License-Identifier: MIT
"""A program that is attached to; argv[1] says what it keeps of the module. Talks by lines."""
from __future__ import print_function

import gc
import os
import sys
import threading
import time


def say(*words):
    print(*words)
    sys.stdout.flush()


def modules():
    return sorted(name for name in sys.modules if "pytracemalloc" in name)


def threads():
    return os.listdir("/proc/self/task")


# Up to 3.6 the GIL is made with the first thread, by the thread that starts it.
first = threading.Thread(target=len, args=("",))
first.start()
first.join()
del first
keeps = sys.argv[1]
meta_path = list(sys.meta_path)
say("ready")
sys.stdin.readline()  # attached
kept = None
if keeps != "unused":
    import pytracemalloc as t
    say(t.is_enabled(), t.get_traced_memory()[0] > 0)
    snapshot = t.Snapshot.create(traces=True)
    calls = []
    task = t.Task(calls.append, 1)
    task.set_memory_threshold(1 << 20)
    task.schedule()
    data = b"x" * (3 << 20)
    for _ in range(3):
        pass
    say(calls)
    kept = {"nothing": None, "module": t, "snapshot": snapshot, "class": t.Filter, "task": task,
            "function": t.get_traces, "core": t._core.get_traces}[keeps]
    if keeps != "task":
        # A call for the release that is queued while we wait for a line keeps our code mapped.
        task.cancel()
    del t, snapshot, calls, task, data
    for _ in range(100):
        pass
else:
    say(True, True)
    say([1])
sys.stdin.readline()  # detached
end = time.time() + 5
while len(threads()) > 1 and time.time() < end:
    time.sleep(0.01)  # the agent answers before it ends
mapped = sum("tm-payload" in line for line in open("/proc/self/maps"))
say(mapped == 0, modules(), sys.meta_path == meta_path, len(threads()))
if keeps == "module":
    assert not kept.is_enabled() and kept.get_traces() == {} and kept.get_tasks() == []
    try:
        kept.enable()
    except RuntimeError as error:
        say(error)
elif keeps == "snapshot":
    assert kept.traces and kept.top_by("line").stats
    assert kept.top_by("line").compare_to(kept.top_by("line")).differences
elif keeps == "class":
    assert kept(True, "a").match("a", 1)
elif keeps == "task":
    assert not kept.is_scheduled()
    kept.cancel()
elif keeps in ("function", "core"):
    assert kept() == {}
del kept
gc.collect()
try:
    import pytracemalloc
except ImportError:
    say("gone")
sys.stdin.readline()
