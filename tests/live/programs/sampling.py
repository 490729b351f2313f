# SPDX-License-Identifier: MIT
"""A program whose blocks are known, sampled: the estimate of each of its lines, from the traces and
from the counters, is as near to the truth as it says of itself.

Argument: a path. Prints "sampled LINES BLOCKS TRACES" or fails."""
import ctypes
import gc
import math
import sys
import threading

import engine
import tms

PATH, MEAN = sys.argv[1], 20000
# A chance of 10^-6 that a true estimate is further off.
DEVIATIONS = 5
raw = ctypes.CDLL(None)  # gives up the GIL
raw.PyMem_RawMalloc.restype = ctypes.c_void_p
raw.PyMem_RawMalloc.argtypes = [ctypes.c_size_t]
raw.PyMem_RawRealloc.restype = ctypes.c_void_p
raw.PyMem_RawRealloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
raw.PyMem_RawFree.argtypes = [ctypes.c_void_p]
OWN = """
def keep():
    return [bytes(n % 400) for n in range(30000)]
kept = keep()
import gc
done = False
"""


def chance(size):
    return -math.expm1(-max(size, 1) / MEAN)


def small():
    return [bytes(n % 200) for n in range(30000)]


def middle():
    return [bytes(600 + n) for n in range(9000)]


def large():
    return [bytes(MEAN + 50 * n) for n in range(300)]


def most_are_gone():
    kept = [bytes(n % 400 + 1) for n in range(40000)]
    del kept[::3]
    return kept


def grown():
    kept = [bytearray(1 + n % 100) for n in range(8000)]
    for n, one in enumerate(kept):
        one.extend(b"x" * (n % 3000))
    return kept


def without_the_gil(addresses):
    for n in range(3000):
        address = raw.PyMem_RawMalloc(n % 2000)
        if n % 4 == 0:
            raw.PyMem_RawFree(address)
        elif n % 4 == 1:
            addresses.append((raw.PyMem_RawRealloc(address, n % 2000 + 500), n % 2000 + 500))
        else:
            addresses.append((address, n % 2000))


def isolated_interpreter():
    """(module, interpreter) with a GIL of its own, which only some Pythons have."""
    try:
        import _interpreters as module
        return module, module.create("isolated"), module.exec
    except ImportError:
        pass
    if sys.version_info[:2] != (3, 12):
        return None
    import _xxsubinterpreters as module
    return module, module.create(isolated=True), module.run_string


def sizes_of(blocks):
    """The objects, the list that holds them and its table."""
    return ([sys.getsizeof(one) for one in blocks] +
            [sys.getsizeof([]), sys.getsizeof(blocks) - sys.getsizeof([])])


def allocate(foreign, held, truth):
    """truth: function -> sizes of its blocks. Returns addresses and sizes of raw ones."""
    threads, addresses = [], [[] for _ in range(4)]
    for one in addresses:
        threads.append(threading.Thread(target=without_the_gil, args=(one,)))
    if foreign is not None:
        threads.append(threading.Thread(target=foreign[2], args=(foreign[1], OWN)))
        truth["keep"] = sizes_of([bytes(n % 400) for n in range(30000)])
    for thread in threads:
        thread.start()
    for function in (small, middle, large, most_are_gone):
        held.append(function())
        truth[function.__name__] = sizes_of(held[-1])
    held.append(grown())
    # Two blocks each: the object, and what its bytes are in.
    head = sys.getsizeof(bytearray())
    truth["grown"] = sizes_of(held[-1]) + [head] * len(held[-1])
    truth["grown"][:len(held[-1])] = [sys.getsizeof(one) - head for one in held[-1]]
    while any(thread.is_alive() for thread in threads):
        [bytes(100) for _ in range(100)]  # all at the same time, whosever bytes they are
    truth["without_the_gil"] = [size for one in addresses for _, size in one]
    return [pair for one in addresses for pair in one]


def main():
    foreign = isolated_interpreter()
    held, truth = [small(), middle(), large(), most_are_gone(), grown()], {}  # not traced
    engine.enable(3, sample_bytes=MEAN)
    addresses = allocate(foreign, held, truth)
    engine.snapshot(PATH)
    snapshot = tms.File(PATH)
    assert snapshot.facts["sample_bytes"] == str(MEAN) and snapshot.facts["dropped"] == "0"
    compare(snapshot, truth)
    # Freed: none stays. A free looks only where its page holds a sample.
    del held[:]
    gc.collect()  # the interpreter's own lists of free objects, on which the lists of blocks are now
    for address, _ in addresses:
        raw.PyMem_RawFree(address)
    if foreign is not None:
        foreign[0].destroy(foreign[1])
    engine.snapshot(PATH)
    left = tms.File(PATH)
    # But for a table of pymalloc's arenas, which it takes from the C library and keeps.
    stay = [(name, trace.size, trace.domain) for name, trace in wanted(left, truth)
            if name == "without_the_gil" or trace.domain != 0]
    assert not stay, stay
    print("sampled", len(truth), sum(map(len, truth.values())), len(snapshot.traces))


def name_of(snapshot, trace):
    frames = snapshot.frames(trace.node)
    for frame in frames[:2]:  # up to 3.11 a list comprehension is a function, within its own
        if not (frame.function or "").endswith("<listcomp>"):
            return (frame.function or "").rpartition(".")[2]
    return None


def wanted(snapshot, truth):
    """(name, trace) of what the truth is known of: the raw blocks alone of what asks for them."""
    for trace in snapshot.traces:
        name = name_of(snapshot, trace)
        if name in truth and (name != "without_the_gil" or trace.domain == 0):
            yield name, trace


def compare(snapshot, truth):
    sums = {name: [0.0] * 4 for name in truth}  # bytes, blocks, their variances
    sites = {}
    for name, trace in wanted(snapshot, truth):
        p = chance(trace.size)
        for i, value in enumerate((trace.size / p, 1 / p)):
            sums[name][i] += value
            sums[name][i + 2] += value * value * (1 - p)
        sites.setdefault(name, set()).add(snapshot.nodes[trace.node][1])
    for name, sizes in sorted(truth.items()):
        size, count, size_variance, count_variance = sums[name]
        print("%s: %d of %d bytes, %d of %d blocks" % (name, size, sum(sizes), count, len(sizes)))
        assert abs(size - sum(sizes)) <= DEVIATIONS * math.sqrt(size_variance), name
        assert abs(count - len(sizes)) <= DEVIATIONS * math.sqrt(count_variance), name
        if name != "without_the_gil":
            counted = sum(snapshot.stats[site].live_bytes for site in sites[name])
            assert abs(counted - size) <= len(snapshot.traces), (name, counted)


main()
