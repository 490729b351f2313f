# SPDX-License-Identifier: MIT
"""--follow-fork: a child is traced, with files of its own pid, and can be talked to."""
import pytest

import tms
from tools import must, tm_attach
from victim import marked_line, wait_until

traceable = pytest.mark.pythons(low=(3, 6), high=(3, 13))


def complete(folder, pid):
    return sorted(folder.glob("x-%d-*.tms" % pid))


@traceable
def test_a_child_writes_files_of_its_own(python, start_victim, tmp_path):
    victim = start_victim(python, "family.py")
    must(tm_attach("--follow-fork", "--delay", 1, "--output", "x-$pid-$counter.tms", victim.pid,
                   cwd=tmp_path))
    victim.command("fork")
    child = int(victim.expect("forked")[0])
    wait_until(lambda: len(complete(tmp_path, child)) >= 2, "the child's snapshots")
    wait_until(lambda: complete(tmp_path, victim.pid), "the parent's snapshot")
    snapshot = tms.File(complete(tmp_path, child)[1])
    snapshot.check()
    assert int(snapshot.facts["pid"]) == child
    line = marked_line("family.py", "LEAK")
    leaks = [t for t in snapshot.traces if t.size > 100000]
    assert leaks and all(snapshot.frames(t.node)[0].line == line for t in leaks)
    must(tm_attach("--status", child, cwd=tmp_path))
    must(tm_attach("--detach", child, cwd=tmp_path))
    count = len(complete(tmp_path, victim.pid))
    wait_until(lambda: len(complete(tmp_path, victim.pid)) > count, "the parent's next snapshot")
    must(tm_attach("--detach", victim.pid, cwd=tmp_path))
    victim.command("fork")
    untraced = int(victim.expect("forked")[0])
    victim.command("end")
    victim.expect("ended")
    assert not complete(tmp_path, untraced)


@traceable
def test_a_child_stays_untraced_without_it(python, start_victim, tmp_path):
    victim = start_victim(python, "family.py")
    must(tm_attach("--delay", 1, "--output", "x-$pid-$counter.tms", victim.pid, cwd=tmp_path))
    victim.command("fork")
    child = int(victim.expect("forked")[0])
    wait_until(lambda: len(complete(tmp_path, victim.pid)) >= 2, "the parent's snapshots")
    assert not complete(tmp_path, child)
    victim.command("end")
    victim.expect("ended")
