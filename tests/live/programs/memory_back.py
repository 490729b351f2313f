# SPDX-License-Identifier: MIT
"""The engine's own memory: told truly, given back when the program frees, gone after disable."""
from __future__ import print_function

import itertools

import engine


def own():
    engine.trim()
    return engine.totals().own_bytes


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def mappings():
    with open("/proc/self/maps") as file:
        return sum(1 for line in file if " 00:00 0" in line and "[" not in line)


def main():
    engine.enable(1)
    engine.disable()
    at_first, rss = mappings(), resident()
    engine.enable(1)
    empty = own()
    # Most of what starting costs is our tables; what was mapped and not touched does not count.
    assert empty < 4 << 20, empty
    assert abs(resident() - rss - empty) < 1 << 19, (empty, resident() - rss)
    # Not over a range: the ints that 2.7 makes for one stay for good (Objects/intobject.c).
    kept = [object() for _ in itertools.repeat(None, 1000000)]
    full = own()
    traces = engine.totals().traced_blocks
    assert traces >= 1000000
    per_trace = (full - empty) / traces
    assert 8 < per_trace < 60, per_trace
    large = [bytearray(50 << 20) for _ in range(8)]
    assert own() < full + (1 << 20), "large blocks cost next to nothing"
    del kept, large
    left = own()
    assert left < empty + (full - empty) / 4, (empty, full, left)
    assert engine.totals().traced_blocks < 10000
    engine.disable()
    assert engine.totals().own_bytes < 4096, engine.totals().own_bytes
    assert mappings() <= at_first + 4, (at_first, mappings())
    print("back", empty, full, left, "%.1f" % per_trace)


main()
