# SPDX-License-Identifier: MIT
"""Traces a churning program and compares the engine with the log of an allocator below it.

Arguments: a folder, frames, rounds of each thread ("600") or how long they run ("600s"), seconds
from one snapshot to the next (0.1); where that is too soon, they follow at once. Prints
"exact BLOCKS BYTES CALLS SNAPSHOTS" or fails."""
import ctypes
import itertools
import json
import os
import random
import sys
import threading
import time

import engine
import tms

FOLDER, LIMIT = sys.argv[1], int(sys.argv[2])
SECONDS = float(sys.argv[3][:-1]) if sys.argv[3].endswith("s") else None
ROUNDS = int(sys.argv[3]) if SECONDS is None else sys.maxsize
PAUSE = float(sys.argv[4]) if len(sys.argv) > 4 else 0.1
clock = getattr(time, "monotonic", time.time)  # 2.7 has no other
log_path = os.path.join(engine.LIB_DIR, "libtm-alloc-log.so")
log, log_free = ctypes.PyDLL(log_path), ctypes.CDLL(log_path)


class LogTotals(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint64), ("blocks", ctypes.c_uint64), ("calls", ctypes.c_uint64)]


class Both(ctypes.Structure):
    _fields_ = [("engine", engine.Totals), ("log", LogTotals)]


class Block(ctypes.Structure):
    _fields_ = [("address", ctypes.c_uint64), ("size", ctypes.c_uint64), ("domain", ctypes.c_uint64)]


log.raw_churn_start.restype = ctypes.c_void_p
log.raw_churn_free.argtypes = log_free.raw_churn_stop.argtypes = [ctypes.c_void_p]
log.log_with_engine.argtypes = [ctypes.c_void_p] * 4
log.log_compare.argtypes = [ctypes.c_void_p, ctypes.c_void_p]


def address_of(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def churn(seed):
    rng = random.Random(seed)
    held = {}
    end = clock() + SECONDS if SECONDS is not None else None
    for i in itertools.count():
        if i == ROUNDS or end is not None and clock() >= end:
            break
        what = rng.randrange(12)
        key = rng.randrange(50)
        if what < 3:
            held[key] = [str(i)] * rng.randrange(200)
        elif what < 5:
            held[key] = bytearray(rng.randrange(100000))
        elif what == 5:
            value = held.get(key)
            if isinstance(value, bytearray):
                value.extend(b"x" * rng.randrange(5000))
            elif isinstance(value, list):
                value.extend(range(1000))
        elif what == 6:
            held[key] = json.loads(json.dumps({"a": [1.5, None, "x" * (i % 2000)] * 5}))
        elif what == 7:
            held[key] = (n for n in [i, i + 1])
            next(held[key])
        elif what == 8:
            held[key] = {str(n): n for n in range(rng.randrange(300))}
        elif what == 9 and i % 97 == 0:
            held[key] = bytes((16 << 20) - 40 + rng.randrange(10))
        elif what == 10:
            try:
                bytearray(10).extend(range(-1, 0))
            except ValueError as error:
                held[key] = str(error)
        else:
            held.pop(key, None)


def main():
    # From before tracing: freed and grown while it is on.
    before = [bytearray(10000) for _ in range(100)] + [[i] for i in range(1000)]
    engine.setup()
    log.log_install()
    options = engine.Options(LIMIT, 0)
    message = ctypes.create_string_buffer(512)
    status = log.log_with_engine(address_of(engine.lib.tm_tracer_enable), ctypes.addressof(options),
                                 ctypes.addressof(message), 512)
    assert status == 0, message.value
    raw = [log.raw_churn_start(i) for i in range(2)]
    threads = [threading.Thread(target=churn, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for block in before[:50]:
        block.extend(bytes(50000))
    del before[:200]
    number, wanted = 0, clock()
    while number == 0 or any(thread.is_alive() for thread in threads):
        number += 1
        engine.snapshot(os.path.join(FOLDER, "%d.tms" % (number % 50)), counter=number)
        wanted += PAUSE
        time.sleep(max(0, wanted - clock()))
    for thread in threads:
        thread.join()
    for handle in raw:
        log_free.raw_churn_stop(handle)
    both = Both()
    log.log_compare(address_of(engine.lib.tm_tracer_totals), ctypes.addressof(both))
    assert both.engine.traced_bytes == both.log.bytes, (both.engine.traced_bytes, both.log.bytes)
    assert both.engine.traced_blocks == both.log.blocks
    assert both.engine.dropped == 0
    for handle in raw:
        log.raw_churn_free(handle)
    compare_blocks()
    print("exact %d %d %d %d" % (both.log.blocks, both.log.bytes, both.log.calls, number))


def compare_blocks():
    """Block by block: nothing of this thread's may move between the copy and the snapshot, so the
    blocks that both have must agree, and those that only one has must be few."""
    log.log_copy.restype = ctypes.c_uint64
    blocks = (Block * 1000000)()
    path = os.path.join(FOLDER, "last.tms")
    n = log.log_copy(blocks, 1000000)
    engine.snapshot(path)
    ours = {trace.address: (trace.size, trace.domain) for trace in tms.File(path).traces}
    theirs = {block.address: (block.size, block.domain) for block in blocks[:n]}
    common = set(ours) & set(theirs)
    if sys.version_info < (3, 6):  # pymalloc's blocks are aligned to 8 bytes only (bpo-27987)
        assert any(address % 16 == 8 for address in common)
    wrong = [a for a in common if ours[a] != theirs[a]]
    assert len(wrong) < 10, wrong
    assert len(common) > 0.95 * n and len(ours) - len(common) < 100, (len(common), n, len(ours))


main()
