# SPDX-License-Identifier: MIT
"""Snapshot.top_by('line') beside tracemalloc's statistics('lineno'), on the same blocks, in one run.

    PYTHONPATH=build/lib/python python bench/api_top_by.py [BLOCKS]
"""
import sys
import time
import tracemalloc

import pytracemalloc


def best(func, times):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = func()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def allocate(blocks):
    """From sixteen lines, so that there is something to group."""
    lines = "\n".join("    out.extend([object() for _ in range(n)])" for _ in range(16))
    space = {}
    exec(compile("def fill(out, n):\n" + lines, "filled.py", "exec"), space)
    out = []
    space["fill"](out, blocks // 16)
    return out


def main():
    blocks = int(sys.argv[1]) if len(sys.argv) > 1 else 2000000
    tracemalloc.start()
    pytracemalloc.enable()
    keep = allocate(blocks)
    ours = pytracemalloc.Snapshot.create(traces=True, metrics=False)
    theirs = tracemalloc.take_snapshot()
    pytracemalloc.disable()
    tracemalloc.stop()
    del keep
    our_s, top = best(lambda: ours.top_by("line"), 3)
    diff_s, _ = best(lambda: ours.top_by("line").compare_to(top), 3)
    their_s, statistics = best(lambda: theirs.statistics("lineno"), 1)
    for stat in statistics:
        if stat.traceback[0].filename == "filled.py":
            size, count = top.stats["filled.py", stat.traceback[0].lineno]
            assert abs(count - stat.count) < 10, (count, stat)
    print("%d traces: top_by %.4f s, top_by and compare_to %.4f s, statistics %.4f s: %.0f times"
          % (len(ours.traces), our_s, diff_s, their_s, their_s / our_s))


main()
