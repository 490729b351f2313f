# SPDX-License-Identifier: MIT
"""A 2.7 without the allocator API, as programs run it today: its code is changed in memory while it
is traced, and is the file's again afterwards."""
import os
import struct

import pytest

from test_first_light import BLOCK_BYTES, BLOCKS, assert_leak_is_first
from tools import analyze_json, must, snapshot, tm_attach

pytestmark = pytest.mark.pythons(low=(2, 7), high=(2, 7), api=False)

CHURN_ROUNDS = int(os.environ.get("TM_REDIRECT_ROUNDS", "8"))


def executable_segments(path):
    """(offset in the file, address, bytes) of an ELF file's segments that can be executed."""
    with open(path, "rb") as file:
        header = file.read(64)
        at, = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        for i in range(count):
            file.seek(at + i * size)
            kind, flags, offset, addr, _, n_bytes = struct.unpack_from("<IIQQQQ", file.read(56))
            if kind == 1 and flags & 1:
                yield offset, addr, n_bytes


def differing_bytes(pid):
    """How many bytes of the libpython's code in memory are not those of its file."""
    with open("/proc/%d/maps" % pid) as file:
        lines = [line.split() for line in file if "libpython" in line]
    path = lines[0][5]
    base = min(int(line[0].split("-")[0], 16) for line in lines)
    result = compared = 0
    with open("/proc/%d/mem" % pid, "rb", 0) as memory, open(path, "rb") as file:
        for offset, addr, n_bytes in executable_segments(path):
            memory.seek(base + addr)
            file.seek(offset)
            ours, theirs = memory.read(n_bytes), file.read(n_bytes)
            assert len(ours) == len(theirs) == n_bytes
            compared += n_bytes
            result += sum(1 for a, b in zip(ours, theirs) if a != b) if ours != theirs else 0
    assert compared > 500000
    return result


def test_code_is_put_back(python, start_victim, tmp_path):
    victim = start_victim(python, "sleeps.py")
    before = victim.facts()
    assert differing_bytes(victim.pid) == 0
    must(tm_attach(victim.pid, cwd=tmp_path))
    # The five bytes of three jumps, of which some may be what they were.
    assert 3 <= differing_bytes(victim.pid) <= 15
    must(tm_attach("--detach", victim.pid))
    assert differing_bytes(victim.pid) == 0
    victim.assert_facts(before)
    victim.assert_advances()


def test_under_hostile_churn(python, start_victim, tmp_path):
    """Six threads allocate and free all the time while hooks come and go. TM_REDIRECT_ROUNDS raises
    how often."""
    victim = start_victim(python, "threads.py")
    before = victim.facts()
    for _ in range(CHURN_ROUNDS):
        victim.prepare(BLOCKS)
        must(tm_attach(victim.pid, cwd=tmp_path))
        first = snapshot(victim, tmp_path)
        leaked_bytes = victim.leak(BLOCKS, BLOCK_BYTES)
        assert_leak_is_first(first, snapshot(victim, tmp_path), leaked_bytes)
        must(tm_attach("--detach", victim.pid))
        assert differing_bytes(victim.pid) == 0
        victim.assert_advances()
    victim.assert_facts(before)


def test_threads_that_are_born_and_die(python, start_victim, tmp_path):
    """The checks meet threads that end meanwhile, and threads that compute without the GIL."""
    victim = start_victim(python, "unruly.py")
    for _ in range(5):
        must(tm_attach(victim.pid, cwd=tmp_path))
        must(tm_attach("--detach", victim.pid))
        assert differing_bytes(victim.pid) == 0
        victim.assert_advances()
    victim.command("quit")
    victim.expect("bye")
    assert victim.process.wait(60) == 0


def test_what_is_not_seen_is_said(python, start_victim, tmp_path):
    victim = start_victim(python, "reads.py")
    must(tm_attach(victim.pid, cwd=tmp_path))
    assert "PyObject_Malloc" in must(tm_attach("--status", victim.pid)).out
    path = snapshot(victim, tmp_path)
    with open(path, "rb") as file:
        data = file.read()
    assert b"unseen=" in data and b"domains=obj\0" in data
    assert analyze_json("top", "-n", "1", path)["snapshots"]
    must(tm_attach("--detach", victim.pid))


def test_children_of_a_traced_one(python, start_victim, tmp_path):
    """A child has the changed code and no agent: it lives on, while and after the parent is traced."""
    victim = start_victim(python, "forks.py")
    must(tm_attach(victim.pid, cwd=tmp_path))
    for _ in range(5):
        victim.assert_advances()
    must(tm_attach("--detach", victim.pid))
    assert differing_bytes(victim.pid) == 0
    victim.assert_advances()
