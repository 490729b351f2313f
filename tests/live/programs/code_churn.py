# SPDX-License-Identifier: MIT
"""Compiles, runs and drops N code objects, whose addresses are used again and again, and checks
that the lines stay right and that the engine does not grow. Arguments: a path, N.

Prints "churned BLOCKS GROWN OWN": how many were checked, and the engine's memory in bytes."""
from __future__ import print_function

import gc
import sys

import engine
import tms

PATH, N = sys.argv[1], int(sys.argv[2])


def run(i, keep):
    """One of 50 sources: the same few lines and names, in ever new code objects."""
    kind = i % 50
    source = "\n" * kind + "def f(keep):\n    keep.append(b'x' * (500000 + 16 * %d))\nf(keep)" % kind
    exec(compile(source, "<churn>", "exec"), {"keep": keep})


def main():
    engine.enable(8)
    keep = []
    for i in range(3000):
        run(i, [])
    engine.trim()
    own = engine.totals().own_bytes
    for i in range(N):
        run(i, keep)
        if i // 50 % (N // 1000) != 0:
            keep.pop()  # 50 in a row stay, 1000 in all
    gc.collect()  # each function and its globals hold each other
    engine.trim()
    grown = engine.totals().own_bytes - own
    engine.snapshot(PATH)
    snapshot = tms.File(PATH)
    checked = 0
    for trace in snapshot.traces:
        kind, rest = divmod(trace.size - sys.getsizeof(b"") - 500000, 16)
        if rest or not 0 <= kind < 50 or trace.domain != 2:
            continue
        frames = snapshot.frames(trace.node)
        assert (frames[0].file, frames[0].function, frames[0].line) == ("<churn>", "f", kind + 2), \
            (frames[:2], kind)
        assert (frames[1].file, frames[1].line) == ("<churn>", kind + 3)
        assert frames[2].function == "run"
        checked += 1
    assert checked == len(keep), (checked, len(keep))
    # Tables of the kept blocks' addresses only: no strings, sites or tracebacks for each code.
    assert grown < (4 << 20) + len(keep) * 4096, grown
    print("churned", checked, grown, own)


main()
