# SPDX-License-Identifier: MIT
"""Runs under every Python: enable and disable under eight allocating threads, and no leak."""
import sys
import threading

import pytracemalloc as t
from old import set_switch_interval, zeros

ROUNDS = int(sys.argv[1])


def resident_bytes():
    return t.get_process_memory()[0]


def allocate_for_ever():
    keep = []
    while not stop:
        keep.append([zeros(100 + len(keep) % 700) for _ in range(20)])
        if len(keep) > 50:
            del keep[::2]
        done.append(1)
        if len(done) > 1000:
            del done[:]


def cycle(rounds):
    for i in range(rounds):
        t.enable()
        if i % 50 == 0:
            size, peak = t.get_traced_memory()
            assert 0 <= size <= peak, (size, peak)
            stats = t.get_stats()
            assert all(size >= 0 and count > 0 for lines in stats.values()
                       for size, count in lines.values())
        t.disable()
        assert t.get_traced_memory() == (0, 0)


stop, done = False, []
threads = [threading.Thread(target=allocate_for_ever) for _ in range(8)]
for thread in threads:
    thread.start()
set_switch_interval(0.0005)
cycle(ROUNDS // 10)
before = resident_bytes()
cycle(ROUNDS)
after = resident_bytes()
stop = True
for thread in threads:
    thread.join()
assert after - before < 16 << 20, (before, after)

# Exact when it is quiet.
t.enable()
keep = [zeros(1000) for _ in range(1000)]
expected = sum(sys.getsizeof(data) for data in keep)
found = sum(t.get_object_trace(data)[0] for data in keep)
assert found == expected, (found, expected)
del keep
assert t.get_traced_memory()[0] < 20000, t.get_traced_memory()
print("ok")
