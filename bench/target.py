# SPDX-License-Identifier: MIT
"""The measured process. Runs on Python 3.6 and later.

    target.py WORKLOAD      reads commands from standard input, answers with one line of JSON each

    run SCALE ITERATIONS BUDGET   seconds of each run; stops early when the budget is spent
    hold BLOCKS                   builds that many live blocks and keeps them
    spin / gap                    a thread that does nothing but look at the clock; the longest time
                                  that it did not run since the last look
    snapshot PATH                 tracemalloc's own snapshot, where it is on
    quit
"""
import importlib
import json
import os
import sys
import threading
import time

_held = None
_gap = 0.0


def _status(key):
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return 0


def _spin():
    global _gap
    clock = time.perf_counter
    last = clock()
    while True:
        now = clock()
        if now - last > _gap:
            _gap = now - last
        last = now


def _run(workload, scale, iterations, budget_seconds):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts anew
    seconds, cpu_seconds = [], []
    while len(seconds) < iterations and (not seconds or sum(seconds) < budget_seconds):
        start, cpu_start = time.perf_counter(), time.process_time()
        kept = workload.run(scale)
        cpu_seconds.append(time.process_time() - cpu_start)
        seconds.append(time.perf_counter() - start)
        del kept
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_rss_bytes": _status("VmHWM")}


def _tracemalloc_snapshot(path):
    import tracemalloc
    start = time.perf_counter()
    snapshot = tracemalloc.take_snapshot()
    taken = time.perf_counter() - start
    snapshot.dump(path)
    return {"traces": len(snapshot.traces), "seconds": taken,
            "own_bytes": tracemalloc.get_tracemalloc_memory(),
            "file_bytes": os.path.getsize(path)}


def _obey(workload, verb, args):
    global _held, _gap
    if verb == "run":
        return _run(workload, float(args[0]), int(args[1]), float(args[2]))
    if verb == "hold":
        before = _status("VmRSS")
        _held = workload.build(int(args[0]))
        return {"grown_bytes": _status("VmRSS") - before}
    if verb == "spin":
        threading.Thread(target=_spin, daemon=True).start()
        return {}
    if verb == "gap":
        gap, _gap = _gap, 0.0
        return {"seconds": gap}
    if verb == "snapshot":
        return _tracemalloc_snapshot(args[0])
    return {"error": "unknown command " + verb}


def main():
    # Where Yama lets only ancestors trace, let tm-attach in.
    try:
        import ctypes
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
    except (ImportError, AttributeError):
        pass
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "workloads"))
    try:
        workload = importlib.import_module(sys.argv[1])
        workload.run(0.01)
    except ImportError as error:
        print(json.dumps({"unavailable": str(error)}), flush=True)
        return
    print(json.dumps({"ready": os.getpid()}), flush=True)
    if "TM_BENCH_UNWIND" in os.environ:
        import ctypes
        if ctypes.PyDLL(os.environ["TM_BENCH_UNWIND"]).tm_bench_unwind() != 0:
            sys.exit("no hooks for libunwind")
    for line in sys.stdin:
        words = line.split()
        if words[0] == "quit":
            return
        print(json.dumps(_obey(workload, words[0], words[1:])), flush=True)


main()
