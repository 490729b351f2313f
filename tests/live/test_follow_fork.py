# SPDX-License-Identifier: MIT
"""--follow-fork: a child is traced, with files of its own pid, and can be talked to."""
import os
import shutil
import subprocess

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


def check_native(file):
    """It has native frames, below the line that leaks and above."""
    file.check()
    assert file.facts["native"] == "16"
    leaks = [trace for trace in file.traces if trace.size > 100000]
    assert leaks
    for trace in leaks:
        sites = file.sites(trace.node)
        assert sites[0].kind == 1 and sites[0].address != 0, sites
        assert [site.function for site in sites if site.kind != 1] == ["leak"], sites


@traceable
def test_native_frames_in_a_child(python, start_victim, tmp_path):
    victim = start_victim(python, "family.py")
    must(tm_attach("--follow-fork", "--native", "--delay", 1, "--output", "x-$pid-$counter.tms",
                   victim.pid, cwd=tmp_path))
    victim.command("fork")
    child = int(victim.expect("forked")[0])
    wait_until(lambda: len(complete(tmp_path, child)) >= 2, "the child's snapshots")
    check_native(tms.File(complete(tmp_path, child)[1]))
    must(tm_attach("--detach", child, cwd=tmp_path))
    must(tm_attach("--detach", victim.pid, cwd=tmp_path))
    victim.command("end")
    victim.expect("ended")


@traceable
def test_native_frames_in_a_child_that_is_attached_to(python, start_victim, tmp_path):
    victim = start_victim(python, "family.py")
    must(tm_attach("--native", "--delay", 0, "--memory-threshold", 0, victim.pid, cwd=tmp_path))
    victim.command("fork")
    child = int(victim.expect("forked")[0])
    must(tm_attach("--native", "--delay", 0, "--memory-threshold", 0, child, cwd=tmp_path))

    def leaks():
        path = tmp_path / must(tm_attach("--snapshot", child, cwd=tmp_path)).out.strip()
        return any(trace.size > 100000 for trace in tms.File(path).traces) and path
    check_native(tms.File(wait_until(leaks, "a leak")))
    must(tm_attach("--detach", child, cwd=tmp_path))
    victim.command("end")
    victim.expect("ended")


def an_empty_library(folder):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    library = folder / "libother.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-o", str(library)],
                   check=True)
    return library


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_a_child_of_a_fork_can_load_libraries(python, start_victim, tmp_path):
    """While the agent reads the unwind tables in the parent: a lock of the loader's that it held at
    the fork would be held in the child for ever."""
    victim = start_victim(python, "fork_loads.py", an_empty_library(tmp_path))
    off = "--delay", 0, "--memory-threshold", 0
    for _ in range(int(os.environ.get("TM_FORK_ROUNDS", "3"))):
        must(tm_attach(*off, victim.pid, cwd=tmp_path))
        victim.command("go")
        must(tm_attach("--native", *off, victim.pid, cwd=tmp_path))
        victim.command("stop")
        count, stuck = map(int, victim.expect("children"))
        assert count > 0 and stuck == 0, (count, stuck)
        must(tm_attach("--detach", victim.pid))


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_the_library_comes_and_goes_between_forks(python, start_victim, tmp_path):
    """No child is forked while the parent's loader is half-way: it could load nothing."""
    victim = start_victim(python, "fork_loads.py", an_empty_library(tmp_path))
    victim.command("go")
    for _ in range(int(os.environ.get("TM_FORK_ROUNDS", "10"))):
        must(tm_attach("--delay", 0, "--memory-threshold", 0, victim.pid, cwd=tmp_path))
        must(tm_attach("--detach", victim.pid))
    victim.command("stop")
    count, stuck = map(int, victim.expect("children"))
    assert count > 0 and stuck == 0, (count, stuck)
