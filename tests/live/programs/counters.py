# SPDX-License-Identifier: MIT
"""The counters of each line: what lives, all that was ever made, and the peak, with and without
traces, and after blocks were given to another line by realloc. Argument: a path.

Prints "counters LINES"."""
import ctypes
import sys
import threading

import engine
import tms

PATH, BLOCK = sys.argv[1], 5000
holding = ctypes.PyDLL(None)  # keeps the GIL
giving = ctypes.CDLL(None)    # gives it up
for raw in (holding, giving):
    raw.PyMem_RawMalloc.restype = raw.PyMem_RawRealloc.restype = ctypes.c_void_p
    raw.PyMem_RawMalloc.argtypes = [ctypes.c_size_t]
    raw.PyMem_RawRealloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    raw.PyMem_RawFree.argtypes = [ctypes.c_void_p]


def line():
    return sys._getframe(1).f_lineno


def churned(n):
    for _ in range(n):
        data = bytes(BLOCK); at = line()  # noqa: E702 (the same line)
        del data
    return at


def risen(n):
    kept = []
    for _ in range(n):
        kept.append(bytes(BLOCK)); at = line()  # noqa: E702
    del kept[n // 4:]
    return at, kept


def made_raw(lib, n, into):
    for _ in range(n):
        into.append(lib.PyMem_RawMalloc(BLOCK)); at = line()  # noqa: E702
    into.append(at)


def grown_raw(lib, n, addresses):
    for i in range(n):
        addresses[i] = lib.PyMem_RawRealloc(addresses[i], 3 * BLOCK); at = line()  # noqa: E702
    return at


def stats_of(snapshot, at):
    """The counters of that line of this file."""
    for number, stat in snapshot.stats.items():
        if number < 1 << 31:  # else: of no line at all
            site = snapshot.site(number)
            if site.file == __file__ and site.line == at:
                return stat
    raise AssertionError("line %d has no counters" % at)


def main():
    size = BLOCK + sys.getsizeof(b"")
    engine.enable(2)
    before = [giving.PyMem_RawMalloc(1) for _ in range(3)]
    n = 4000
    churn_line = churned(n)
    rise_line, kept = risen(n)
    threads, raws = [], [[] for _ in range(4)]
    for i, raw in enumerate(raws):
        threads.append(threading.Thread(
            target=made_raw, args=(giving if i % 2 else holding, n // 4, raw)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    raw_lines = {raw.pop() for raw in raws}
    addresses = [address for raw in raws for address in raw]
    grow_line = grown_raw(giving, n // 2, addresses)
    for address in addresses[n // 2:n // 2 + n // 8]:
        giving.PyMem_RawFree(address)
    for with_traces in (True, False):
        engine.snapshot(PATH, with_traces=with_traces)
        snapshot = tms.File(PATH)
        assert bool(snapshot.traces) == with_traces
        churn = stats_of(snapshot, churn_line)
        assert churn.live_bytes < size and churn.total_blocks >= n, churn
        assert size <= churn.peak_bytes < 3 * size, churn
        rise = stats_of(snapshot, rise_line)
        # The list's table is of this line, too: one block, never more than the blocks themselves.
        assert 0 <= rise.live_blocks - n // 4 <= 2 and rise.total_blocks >= n, rise
        assert 0 <= rise.live_bytes - size * n // 4 < 100000, rise
        assert 0 <= rise.peak_bytes - size * n < 100000, rise
        (raw_line,) = raw_lines
        made = stats_of(snapshot, raw_line)
        assert made.total_blocks >= n, made
        # Half of them went to another line, an eighth is gone.
        assert 0 <= made.live_bytes - BLOCK * (n // 2 - n // 8) < 300000, made
        assert made.peak_bytes >= BLOCK * n, made
        grew = stats_of(snapshot, grow_line)
        assert 0 <= grew.live_bytes - 3 * BLOCK * (n // 2) < 100000, grew
        assert 0 <= grew.live_blocks - 2 * (n // 2) < 100, grew  # and the ints of addresses
    # Since the start of tracing, not of the program; and by lines, not by calls.
    engine.enable(2)
    for address in addresses[:n // 2] + addresses[n // 2 + n // 8:] + before:
        giving.PyMem_RawFree(address)
    del kept
    engine.snapshot(PATH)
    tms.File(PATH).check()
    print("counters 4")


main()
