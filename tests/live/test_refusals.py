# SPDX-License-Identifier: MIT
"""What tm-attach will not touch: one line that names the reason, a status of its own, and a target
that was not stopped for an instant.

A blocked process that nobody disturbs is never put on a processor, so its counts of context
switches say whether it was stopped, however briefly.
"""
import os
import subprocess

import pytest

from tools import run_as_nobody, run_tool, tm_attach
from victim import read_status, switches, wait_until, wait_until_blocked


def unused_pid():
    """A PID that no process has, and none will soon: the kernel gives them in ascending order."""
    with open("/proc/sys/kernel/pid_max") as file:
        highest = int(file.read())
    return next(pid for pid in range(highest - 1, 1, -1) if not os.path.exists("/proc/%d" % pid))


def assert_one_line(result, *words):
    assert result.status not in (0, 1, 2), result
    assert result.out == ""
    assert result.err.count("\n") == 1 and result.err.endswith("\n"), result
    for word in words:
        assert word.lower() in result.err.lower(), result
    return result.status


def refused(pid, attach):
    """attach() while a process is blocked; asserts that it never ran."""
    wait_until_blocked(pid)
    before = switches(pid)
    result = attach()
    assert switches(pid) == before, "the target was disturbed"
    assert read_status(pid)["TracerPid"] == "0"
    return result


@pytest.fixture
def not_python():
    """A program that is not Python, blocked in a read."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_until(lambda: os.readlink("/proc/%d/exe" % process.pid).endswith(("/cat", "coreutils")),
               "cat to start")
    yield process.pid
    process.stdin.close()
    process.wait()


def attach_as_nobody(folder, pid):
    return run_as_nobody(folder, "tm-attach", pid)


def test_no_such_process():
    pid = unused_pid()
    assert_one_line(tm_attach(pid), str(pid), "process")


def test_not_python(not_python):
    assert_one_line(refused(not_python, lambda: tm_attach(not_python)), str(not_python), "python")


def test_other_users(any_python, start_victim, public_tools):
    victim = start_victim(any_python, "reads.py")
    result = refused(victim.pid, lambda: attach_as_nobody(public_tools, victim.pid))
    assert_one_line(result, str(victim.pid), "user")
    victim.assert_advances()


def test_statuses_differ(not_python, any_python, start_victim, public_tools):
    victim = start_victim(any_python, "reads.py")
    results = [tm_attach(unused_pid()), tm_attach(not_python),
               attach_as_nobody(public_tools, victim.pid)]
    statuses = [assert_one_line(result) for result in results]
    assert len(set(statuses)) == 3, results


@pytest.mark.parametrize("verb", ["--status", "--snapshot", "--detach"])
def test_verbs_without_attach(verb, any_python, start_victim):
    """A process that is not traced is told apart from one that cannot be."""
    victim = start_victim(any_python, "reads.py")
    result = refused(victim.pid, lambda: tm_attach(verb, victim.pid))
    assert_one_line(result, str(victim.pid))
    assert_one_line(tm_attach(verb, unused_pid()), "process")


def test_usage():
    for args in ([], ["not-a-pid"], ["--delay", "x", "1"], ["--no-such-option", "1"]):
        result = run_tool("tm-attach", *args)
        assert result.status == 2 and result.err != "" and result.out == "", (args, result)


@pytest.mark.pythons(low=(3, 0), high=(3, 3), api=False)
def test_without_the_patch(python, start_victim):
    """A 3.3 without the patch is refused by name; it is not stopped either."""
    victim = start_victim(python, "reads.py")
    result = refused(victim.pid, lambda: tm_attach(victim.pid))
    assert_one_line(result, "%d.%d" % python.version[:2], "patches/3.3")
    victim.assert_advances()
