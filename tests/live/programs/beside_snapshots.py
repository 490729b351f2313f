# SPDX-License-Identifier: MIT
"""What a snapshot takes from the program: no GIL while it is written, and never so much memory as
would double the engine's. Argument: a path. Prints "beside BYTES OWN MORE"."""
import ctypes
import errno
import os
import sys
import threading

import engine
import tms

PATH = sys.argv[1]


def peak_kib():
    """Since the last call."""
    with open("/proc/self/status") as file:
        peak = [int(line.split()[1]) for line in file if line.startswith("VmHWM:")][0]
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak


def write_to(fd, ret_status):
    result = engine.SnapshotResult()
    options = engine.SnapshotOptions(1, 1, b"test")
    ret_status.append(engine.free.tm_snapshot_write(fd, ctypes.byref(options), ctypes.byref(result)))
    os.close(fd)


def read_by_the_program():
    """A pipe takes 64 KiB: the rest is written only as the program reads, for which it must run, and
    allocates and frees what the snapshot has yet to write. Its header comes last, and seeks."""
    reader, writer = os.pipe()
    status, read, kept = [], 0, [bytes(100) for _ in range(100)]
    thread = threading.Thread(target=write_to, args=(writer, status))
    thread.start()
    while True:
        data = os.read(reader, 4096)
        if not data:
            break
        read += len(data)
        kept.append(data)
        del kept[0]
    thread.join()
    os.close(reader)
    assert status == [-errno.ESPIPE], status
    assert read > 200000, read
    return read


def main():
    engine.enable(1)
    held = [object() for _ in range(2500000)]
    read = read_by_the_program()
    engine.trim()
    own = engine.totals().own_bytes
    peak_kib()
    before = peak_kib()
    for _ in range(3):
        engine.snapshot(PATH)
    more = (peak_kib() - before) * 1024
    assert own > 16 << 20, own
    assert more < own // 2, (own, more)
    del held[::2]
    engine.snapshot(PATH)
    tms.File(PATH).check()
    print("beside", read, own, more)


main()
