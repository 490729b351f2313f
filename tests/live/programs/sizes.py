# SPDX-License-Identifier: MIT
"""Block by block: sizes of 0 and of 4 GiB and more, realloc that moves, stays and fails, blocks from
before tracing, addresses that are used again at once. Argument: a path. Prints "sizes N"."""
import ctypes
import sys

import engine
import tms

PATH = sys.argv[1]
GIB = 1 << 30
api = ctypes.pythonapi
for name in ("PyMem_RawMalloc", "PyMem_RawCalloc", "PyMem_RawRealloc"):
    getattr(api, name).restype = ctypes.c_void_p
api.PyMem_RawMalloc.argtypes = [ctypes.c_size_t]
api.PyMem_RawCalloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
api.PyMem_RawRealloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
api.PyMem_RawFree.argtypes = [ctypes.c_void_p]
expected, checks = {}, 0


def check():
    """The snapshot has each block of `expected`, {address: size or None for "not traced"}."""
    global checks
    engine.snapshot(PATH)
    snapshot = tms.File(PATH)
    snapshot.check()
    found = {trace.address: trace.size for trace in snapshot.traces}
    for address, size in expected.items():
        assert found.get(address) == size, (hex(address), size, found.get(address))
        checks += 1


def forget(address):
    """Freed by us; somebody else may have it by now."""
    api.PyMem_RawFree(address)
    expected.pop(address, None)


def main():
    before = [api.PyMem_RawMalloc(size) for size in (100, 200, 5 * GIB)]
    old_object = bytes(6 * GIB)
    engine.enable(3)
    for address in before:
        expected[address] = None
    check()
    # From before: freed; grown, which makes it a block of now.
    forget(before[0])
    expected.pop(before[1])
    grown = api.PyMem_RawRealloc(before[1], 50000)
    expected[grown] = 50000
    forget(before[2])
    del old_object
    check()
    for size in (0, 1, (1 << 24) - 2, (1 << 24) - 1, 1 << 24, 4 * GIB - 1, 4 * GIB, 5 * GIB + 3):
        expected[api.PyMem_RawMalloc(size)] = size
        expected[api.PyMem_RawCalloc(1, size)] = size
    check()
    # Stays in place: it gets smaller, or grows within what it has. Moves: something is behind it.
    stays = moves = 0
    for address, size in list(expected.items()):
        for new_size in (size // 2, size // 2 + 1, size + 70000, 5):
            if size > GIB and new_size > GIB:
                continue  # mremap of what nobody has touched is quick, but not everywhere
            expected.pop(address)
            moved = api.PyMem_RawRealloc(address, new_size)
            moves, stays = moves + (moved != address), stays + (moved == address)
            address = moved
            expected[address] = new_size
    assert moves and stays, (moves, stays)
    check()
    # Fails: the block is as it was.
    for address in list(expected):
        assert api.PyMem_RawRealloc(address, sys.maxsize - 4096) is None
    check()
    # Used again at once, with another size and back.
    again = 0
    for _ in range(200):
        for size in (24, 24, 0, 4000):
            first = api.PyMem_RawMalloc(size)
            api.PyMem_RawFree(first)
            second = api.PyMem_RawMalloc(size + 1 if size else 0)
            again += first == second
            expected[second] = size + 1 if size else 0
            if len(expected) > 300:
                forget(second)
    assert again > 100, again
    check()
    # Objects of that size, through the obj domain.
    kept = [bytes(5 * GIB), bytearray(4 * GIB)]
    for address in list(expected):
        forget(address)
    engine.snapshot(PATH)
    sizes = sorted(trace.size for trace in tms.File(PATH).traces)[-2:]
    assert sizes == sorted([sys.getsizeof(kept[0]), 4 * GIB + 1]), sizes
    total = engine.totals().traced_bytes
    del kept
    assert total - engine.totals().traced_bytes > 9 * GIB
    print("sizes", checks)


main()
