# SPDX-License-Identifier: MIT
"""The whole way on every Python: attach, leak a known amount on a known line, read it off the
diff's first line, detach, and find the process as it was."""
import glob
import os
import re

import pytest

from tools import analyze_json, must, snapshot, tm_analyze, tm_attach
from victim import marked_line, wait_until

pytestmark = pytest.mark.pythons(low=(2, 7), high=(3, 13))

BLOCKS = 2000
BLOCK_BYTES = 1000
LEAK = ("_victim.py", marked_line("_victim.py", "LEAK"))
FIRST = re.compile(r"#1: (?P<key>.+?): ")


def first_difference(old, new):
    """(file, line, bytes, count) of a diff's first item; the text and the JSON must agree on it."""
    text = must(tm_analyze("diff", old, new)).out
    item = analyze_json("diff", "-n", "1", old, new)["items"][0]
    match = FIRST.search(text)
    assert match, text
    base = os.path.basename(item["file"])
    assert match.group("key").endswith("%s:%d" % (base, item["line"])), (text, item)
    return base, item["line"], item["size_diff"], item["count_diff"]


def assert_leak_is_first(old, new, leaked_bytes):
    """To the byte: the sizes of these blocks are known exactly."""
    assert first_difference(old, new) == LEAK + (leaked_bytes, BLOCKS)


def find_the_leak(victim, folder):
    """Attaches, finds what leaks, detaches."""
    victim.prepare(BLOCKS)
    must(tm_attach(victim.pid, cwd=folder))
    first = snapshot(victim, folder)
    leaked_bytes = victim.leak(BLOCKS, BLOCK_BYTES)
    assert_leak_is_first(first, snapshot(victim, folder), leaked_bytes)
    must(tm_attach("--detach", victim.pid))


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
    items = analyze_json("top", "-n", "100000", first)["items"]
    assert LEAK not in [(os.path.basename(item["file"] or ""), item["line"]) for item in items]
    assert_leak_is_first(first, second, leaked_bytes)
    # The line is gone from the third altogether.
    assert first_difference(second, third) == LEAK + (-leaked_bytes, -BLOCKS)
    must(tm_attach("--detach", victim.pid))


def test_attach_again(python, start_victim, tmp_path):
    victim = start_victim(python, "sleeps.py")
    allocators, before = victim.allocators(), victim.facts()
    for _ in range(3):
        find_the_leak(victim, tmp_path)
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

    def last_size():
        """Traced bytes in the newest snapshot, or nothing where there is none."""
        paths = sorted(glob.glob(str(tmp_path / "m-*.tms")))
        return paths and analyze_json("top", "-n", "1", paths[-1])["snapshots"][0]["size"]

    def window_is_around(size_bytes):
        """The task is armed again, around what is traced now: nothing fires until that changes."""
        status = must(tm_attach("--status", victim.pid)).out
        edges = re.search(r"at (\d+) MiB or (\d+) MiB traced", status)
        return edges and int(edges.group(2)) < size_bytes >> 20 <= int(edges.group(1))

    # Many thresholds at once. How far the growth had come when a snapshot began is nobody's promise,
    # as the window is centred anew after the snapshot.
    leaked_bytes = victim.leak(BLOCKS, 10 * BLOCK_BYTES)
    wait_until(lambda: window_is_around(leaked_bytes), "the window to follow the growth")
    assert last_size() >= 1 << 20
    victim.command("drop")
    victim.expect("dropped")
    # Without a GIL a snapshot begins while the program is still dropping.
    limit_bytes = leaked_bytes - (1 << 20) if python.free_threaded else 1 << 20
    wait_until(lambda: last_size() < limit_bytes, "the snapshot of shrinking")
    must(tm_attach("--detach", victim.pid))


def test_traceback(python, start_victim, tmp_path):
    """Every frame has its file, line and place in the order, through generators and C functions."""
    victim = start_victim(python, "generators.py")
    must(tm_attach("--traceback-limit", 20, victim.pid, cwd=tmp_path))
    victim.command("chain", BLOCKS)
    assert victim.expect("chained") == [str(BLOCKS)]
    path = snapshot(victim, tmp_path)
    item = analyze_json("top", "-n", "1", "--group-by", "traceback", path)["items"][0]
    frames = [os.path.basename(frame) for frame in item["traceback"]]
    names = ["keep", "produce", "through_c", "<module>"]
    if python.version >= (3, 11):
        names[0] = "Store.keep"
    marks = ["LEAK-METHOD", "CALL-KEEP", "CALL-GENERATOR", "CALL-C"]
    assert frames == ["generators.py:%d (%s)" % (marked_line("generators.py", mark), name)
                      for mark, name in zip(marks, names)]
    assert item["count"] == BLOCKS
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
