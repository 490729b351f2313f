# SPDX-License-Identifier: MIT
"""Two snapshots made by hand."""
from datetime import datetime

import pytracemalloc as t

NOW = datetime(2013, 10, 3, 11, 34, 39, 500000)
LATER = datetime(2013, 10, 3, 11, 34, 45)


def make_traces():
    return {
        0x10001: (10, (("a.py", 2), ("b.py", 4))),
        0x10002: (10, (("a.py", 2), ("b.py", 4))),
        0x10003: (10, (("a.py", 2), ("b.py", 4))),
        0x20001: (2, (("a.py", 5), ("b.py", 4))),
        0x30001: (66, (("b.py", 1),)),
        0x40001: (7, ((None, None),)),
    }


def make_stats():
    return {"a.py": {2: (30, 3), 5: (2, 1)}, "b.py": {1: (66, 1)}, None: {None: (7, 1)}}


def make_snapshots():
    first = t.Snapshot(NOW, 123, make_traces(), make_stats(), None)
    traces = make_traces()
    traces.update({0x20002: (5000, (("a.py", 5), ("b.py", 4))), 0x50001: (400, (("c.py", 578),))})
    del traces[0x40001]
    stats = {"a.py": {2: (30, 3), 5: (5002, 2)}, "b.py": {1: (66, 1)}, "c.py": {578: (400, 1)}}
    return first, t.Snapshot(LATER, 123, traces, stats, None)
