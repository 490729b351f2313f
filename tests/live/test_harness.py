# SPDX-License-Identifier: MIT
"""The harness itself: victims start, obey, beat and say the truth on every Python found."""
import pytest

from pythons import find_pythons
from victim import marked_line, switches

SCRIPTS = ["reads.py", "sleeps.py", "busy.py", "threads.py", "forks.py", "generators.py"]


def test_finds_pythons():
    names = [python.name for python in find_pythons()]
    assert names, "not one Python found"
    assert len(names) == len(set(names)), names


@pytest.mark.parametrize("script", SCRIPTS)
def test_victim_obeys(python, script, start_victim):
    victim = start_victim(python, script)
    victim.prepare(1000)
    leaked = victim.leak(1000, 1000)
    assert 1000 * 1000 < leaked < 1000 * 1100
    if python.version >= (3, 5):
        words = victim.allocators()
        assert len(words) == 15 and all(int(word, 16) for word in words[1:5])
    victim.command("quit")
    victim.expect("bye")
    assert victim.process.wait(30) == 0


@pytest.mark.parametrize("script", ["sleeps.py", "busy.py", "threads.py", "forks.py"])
def test_victim_beats(python, script, start_victim):
    victim = start_victim(python, script)
    victim.assert_advances()


def test_facts_are_stable(python, start_victim):
    victim = start_victim(python, "reads.py")
    victim.wait_until_blocked()
    before, count = victim.facts(), switches(victim.pid)
    victim.assert_facts(before)
    assert switches(victim.pid) == count
    assert before.tracer == "0"


def test_marks():
    assert marked_line("_victim.py", "LEAK") > 0
