# SPDX-License-Identifier: MIT
"""Traces itself with the standard library's tracemalloc. "take": takes its snapshot; "write PATH":
writes what it took as JSON: [domain, size, [[file, line], ...]], most recent frame first."""
import json
import sys
import tracemalloc

import _victim

tracemalloc.start(8)


def grow(depth):
    if depth:
        return grow(depth - 1)
    return [bytes(100 + i) for i in range(2000)]


def write(path, taken):
    rows = []
    for trace in taken.traces._traces:
        # 3.7 to 3.8 have (domain, size, frames); 3.9 on add the number of all frames.
        frames = trace[2][::1]
        rows.append([trace[0], trace[1], [list(frame) for frame in frames]])
    with open(path, "w") as file:
        json.dump(rows, file)


kept = [grow(0), grow(5), grow(20), {str(i): i for i in range(5000)}, bytearray(40 << 20)]
exec(compile("kept.append([bytes(333) for _ in range(10)])", "d\u00e9j\u00e0-\u4e2d.py", "exec"))
taken = None
_victim.say("ready", 1)
while True:
    words = sys.stdin.readline().split()
    if words[0] == "take":
        taken = tracemalloc.take_snapshot()
        _victim.say("taken")
    elif words[0] == "write":
        write(words[1], taken)
        _victim.say("written")
