# SPDX-License-Identifier: MIT
"""The whole way on every Python: attach, leak a known amount on a known line, read it off the
diff's first line, detach, and find the process as it was."""
import glob
import os
import re

import pytest

from tools import must, snapshot, tm_analyze, tm_attach
from victim import marked_line, wait_until

pytestmark = pytest.mark.pythons(low=(3, 6), high=(3, 13))

BLOCKS = 2000
BLOCK_BYTES = 1000
LEAK_KEY = "_victim.py:%d" % marked_line("_victim.py", "LEAK")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
ITEM = re.compile(r"#1: (?P<key>.+): size=\d+ \w+ \((?P<size>[+-]\d+) (?P<unit>\w+)\)"
                  r"(, count=\d+ \((?P<count>[+-]\d+)\))?")


def first_item(text):
    """(key, bytes, count): the differences of a diff's first item."""
    match = ITEM.search(text)
    assert match, text
    return (match.group("key"), int(match.group("size")) * UNITS[match.group("unit")],
            int(match.group("count") or 0))


def assert_leak_is_first(old, new, leaked_bytes):
    out = must(tm_analyze("diff", old, new)).out
    key, size_bytes, count = first_item(out)
    assert key.endswith(LEAK_KEY), out
    assert count == BLOCKS, out
    assert abs(size_bytes - leaked_bytes) <= leaked_bytes / 100.0, (leaked_bytes, out)


@pytest.mark.parametrize("script", ["reads.py", "sleeps.py", "busy.py", "threads.py"])
def test_leak_is_found(python, script, start_victim, tmp_path):
    victim = start_victim(python, script)
    victim.prepare(BLOCKS)
    allocators, before = victim.allocators(), victim.facts()

    attached = must(tm_attach(victim.pid, cwd=tmp_path))
    assert attached.out.count("\n") == 1, attached
    assert "%d.%d.%d" % python.version in attached.out
    # Tracing is on: the allocators of mem and obj at the least are no longer the originals.
    assert victim.allocators() != allocators

    first = snapshot(victim, tmp_path)
    leaked_bytes = victim.leak(BLOCKS, BLOCK_BYTES)
    second = snapshot(victim, tmp_path)
    assert_leak_is_first(first, second, leaked_bytes)
    victim.assert_advances()

    must(tm_attach("--detach", victim.pid))
    victim.assert_facts(before)
    assert victim.allocators() == allocators
    victim.assert_advances()
    victim.prepare(BLOCKS)
    assert victim.leak(BLOCKS, BLOCK_BYTES) == leaked_bytes
    victim.command("quit")
    victim.expect("bye")
    assert victim.process.wait(60) == 0


def test_forks_while_traced(python, start_victim, tmp_path):
    """Children of a traced process live and leave as ever; the victim itself checks their status."""
    victim = start_victim(python, "forks.py")
    victim.prepare(BLOCKS)
    allocators = victim.allocators()
    must(tm_attach(victim.pid, cwd=tmp_path))
    first = snapshot(victim, tmp_path)
    for _ in range(5):
        victim.assert_advances()
    leaked_bytes = victim.leak(BLOCKS, BLOCK_BYTES)
    assert_leak_is_first(first, snapshot(victim, tmp_path), leaked_bytes)
    must(tm_attach("--detach", victim.pid))
    assert victim.allocators() == allocators
    victim.assert_advances()


def test_blocks_freed_and_older_than_the_attach(python, start_victim, tmp_path):
    """What was allocated before the attach is not seen, and its end disturbs nothing; what was
    allocated and freed under trace is gone from the next snapshot."""
    victim = start_victim(python, "reads.py")
    victim.prepare(BLOCKS)
    victim.leak(BLOCKS, BLOCK_BYTES)
    must(tm_attach(victim.pid, cwd=tmp_path))
    victim.command("drop")
    victim.expect("dropped")
    victim.prepare(BLOCKS)
    first = snapshot(victim, tmp_path)
    leaked_bytes = victim.leak(BLOCKS, BLOCK_BYTES)
    second = snapshot(victim, tmp_path)
    victim.command("drop")
    victim.expect("dropped")
    third = snapshot(victim, tmp_path)
    assert LEAK_KEY not in must(tm_analyze("top", first)).out
    assert_leak_is_first(first, second, leaked_bytes)
    key, size_bytes, count = first_item(must(tm_analyze("diff", second, third)).out)
    assert key.endswith(LEAK_KEY) and count == -BLOCKS
    assert abs(size_bytes + leaked_bytes) <= leaked_bytes / 100.0
    must(tm_attach("--detach", victim.pid))


def test_attach_again(python, start_victim, tmp_path):
    victim = start_victim(python, "sleeps.py")
    allocators, before = victim.allocators(), victim.facts()
    for _ in range(3):
        victim.prepare(BLOCKS)
        must(tm_attach(victim.pid, cwd=tmp_path))
        first = snapshot(victim, tmp_path)
        leaked_bytes = victim.leak(BLOCKS, BLOCK_BYTES)
        assert_leak_is_first(first, snapshot(victim, tmp_path), leaked_bytes)
        must(tm_attach("--detach", victim.pid))
        victim.assert_facts(before)
        assert victim.allocators() == allocators
    victim.assert_advances()


def test_delay_and_repeat(python, start_victim, tmp_path):
    """--delay 1 --repeat 2 writes two files, named by the template, and no third."""
    victim = start_victim(python, "threads.py")
    must(tm_attach("--delay", 1, "--repeat", 2, "--output", "shot-$pid-$counter.tms", victim.pid,
                   cwd=tmp_path))
    expected = [str(tmp_path / ("shot-%d-%04d.tms" % (victim.pid, i))) for i in (1, 2)]
    pattern = str(tmp_path / "shot-*")
    wait_until(lambda: os.path.exists(expected[1]), "the second snapshot")
    must(tm_analyze("diff", *expected))
    # A third would come one delay later; what the task says of itself needs no waiting for that.
    must(tm_attach("--status", victim.pid))
    must(tm_attach("--detach", victim.pid))
    assert sorted(glob.glob(pattern)) == expected
    victim.assert_advances()


def test_memory_threshold(python, start_victim, tmp_path):
    """Memory that grows past the threshold, and memory that shrinks past it, make a snapshot."""
    victim = start_victim(python, "reads.py")
    victim.prepare(BLOCKS)
    must(tm_attach("--delay", 3600, "--memory-threshold", "1M", "--output", "m-$counter.tms",
                   victim.pid, cwd=tmp_path))
    victim.leak(BLOCKS, BLOCK_BYTES)
    wait_until(lambda: glob.glob(str(tmp_path / "m-*.tms")), "the snapshot of growth")
    count = len(glob.glob(str(tmp_path / "m-*.tms")))
    victim.command("drop")
    victim.expect("dropped")
    wait_until(lambda: len(glob.glob(str(tmp_path / "m-*.tms"))) > count,
               "the snapshot of shrinking")
    must(tm_attach("--detach", victim.pid))


def test_traceback(python, start_victim, tmp_path):
    """Every frame has its file, line and place in the order, through generators and C functions."""
    victim = start_victim(python, "generators.py")
    must(tm_attach("--traceback-limit", 20, victim.pid, cwd=tmp_path))
    victim.command("chain", BLOCKS)
    assert victim.expect("chained") == [str(BLOCKS)]
    path = snapshot(victim, tmp_path)
    out = must(tm_analyze("traceback", path)).out
    frames = [(os.path.basename(name), int(line)) for name, line in
              re.findall(r'File "([^"]+)", line (\d+)', out)]
    chain = [("generators.py", marked_line("generators.py", mark))
             for mark in ("LEAK-METHOD", "CALL-KEEP", "CALL-GENERATOR", "CALL-C")]
    assert frames[:4] == chain, out
    must(tm_attach("--detach", victim.pid))


def test_no_traces(python, start_victim, tmp_path):
    """Counters alone give the same first line."""
    victim = start_victim(python, "reads.py")
    victim.prepare(BLOCKS)
    must(tm_attach("--no-traces", victim.pid, cwd=tmp_path))
    first = snapshot(victim, tmp_path)
    leaked_bytes = victim.leak(BLOCKS, BLOCK_BYTES)
    assert_leak_is_first(first, snapshot(victim, tmp_path), leaked_bytes)
    must(tm_attach("--detach", victim.pid))


def test_exits_while_traced(python, start_victim, tmp_path):
    """The end of a traced program is as quick and as clean as ever."""
    for script in ("reads.py", "threads.py"):
        victim = start_victim(python, script)
        must(tm_attach(victim.pid, cwd=tmp_path))
        victim.command("quit")
        victim.expect("bye")
        assert victim.process.wait(60) == 0
