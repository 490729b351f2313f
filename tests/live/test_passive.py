# SPDX-License-Identifier: MIT
"""Snapshots that the target did not take: equal to the agent's own, of processes that cannot
answer, and without a byte of the target changed."""
import collections
import json
import os
import platform
import random
import signal
import stat
import subprocess

import pytest

from passive import TM_GDB, differences, extract, gdb, make_core, whole, writable_memory
from tms import File
from tools import must, snapshot, tm_analyze, tm_attach
from victim import read_status, wait_until

pytestmark = pytest.mark.pythons(low=(3, 6), high=(3, 13))

SYS_EXIT = 60  # of the thread alone; exit_group is another call


@pytest.fixture
def traced(traced):
    def start(*args, **more):
        victim = traced(*args, **more)
        victim.leak(2, 40 << 20)  # sizes that do not fit into an entry
        victim.wait_until_blocked()
        return victim
    return start


def agent_threads(pid):
    names = []
    for tid in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/comm" % (pid, tid)) as file:
            names.append(file.read().strip())
    return [name for name in names if name == "tm-agent"]


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: read_status(pid)["State"][0] == "T", "the process to stop")


def check_all_are_equal(victim, tmp_path, least):
    agent = File(snapshot(victim, tmp_path))
    passive = extract(tmp_path / "passive.tms", "--pid", victim.pid)
    core = extract(tmp_path / "core.tms", "--core", make_core(victim.pid, tmp_path / "core"))
    assert len(whole(agent)) >= least
    assert differences(agent, passive) == []
    assert differences(agent, core, from_core=True) == []
    assert passive.facts["reason"] == "passive"
    assert passive.facts["torn"] == core.facts["torn"] == "0"
    assert "counter" not in passive.facts and "pause_ns" not in passive.facts
    victim.assert_advances()
    return agent


def test_all_snapshots_are_equal(python, traced, tmp_path):
    check_all_are_equal(traced(python), tmp_path, 502)


def test_native_frames_are_equal(any_python, traced, tmp_path):
    if platform.machine() != "x86_64":
        pytest.skip("native frames are known on x86_64")
    agent = check_all_are_equal(traced(any_python, options=["--native=16"]), tmp_path, 502)
    native = [site for trace in agent.traces for site in agent.sites(trace.node) if site.kind == 1]
    assert agent.modules and any(site.module is not None and site.address for site in native)


def test_samples_are_equal(any_python, traced, tmp_path):
    agent = check_all_are_equal(traced(any_python, options=["--sample=8192"]), tmp_path, 2)
    assert agent.facts["sample_bytes"] == "8192"
    assert len(whole(agent)) < 400


def test_snapshot_before_the_first_measure(any_python, traced, tmp_path):
    """The payload's own memory is not known until it has measured it: then it is not shown."""
    passive = extract(tmp_path / "passive.tms", "--pid", traced(any_python).pid)
    assert "tracemalloc.traces" in passive.metrics
    assert not [name for name in passive.metrics if name.startswith("tracemalloc.module")]


def test_attach_snapshot_passive(any_python, traced, tmp_path):
    victim = traced(any_python)
    printed = must(tm_attach("--snapshot", "--passive", victim.pid, cwd=tmp_path)).out.strip()
    assert printed == str(tmp_path / ("tracemalloc-%d-passive-0001.tms" % victim.pid))
    assert len(whole(File(printed))) >= 502
    assert tm_attach("--passive", victim.pid).status == 2


def test_memory_is_not_changed(any_python, traced, tmp_path):
    victim = traced(any_python)
    stop(victim.pid)
    before = writable_memory(victim.pid)
    extract(tmp_path / "passive.tms", "--pid", victim.pid)
    assert writable_memory(victim.pid) == before
    os.kill(victim.pid, signal.SIGCONT)
    victim.assert_advances()


def test_holds_the_gil_for_ever(any_python, traced, tmp_path):
    victim = traced(any_python, "holds_gil.py")
    victim.command("hang")
    victim.expect("hanging")
    victim.wait_until_blocked()
    assert len(whole(extract(tmp_path / "passive.tms", "--pid", victim.pid))) >= 502


def test_agent_does_not_answer(any_python, traced, tmp_path):
    """gdb sends the agent's thread into pause(), where no signal wakes it."""
    if platform.machine() != "x86_64":
        pytest.skip("names registers of x86_64")
    victim = traced(any_python)
    before = whole(extract(tmp_path / "before.tms", "--pid", victim.pid))
    out = gdb("-p", victim.pid, "-ex", "python [t.switch() for t in gdb.selected_inferior()."
              "threads() if t.name == 'tm-agent']", "-ex", "set $orig_rax = -1",
              "-ex", "set $pc = (long)&pause", "-ex", "detach")
    assert victim.process.poll() is None, out
    assert whole(extract(tmp_path / "passive.tms", "--pid", victim.pid)) == before


def test_agent_is_gone(any_python, traced, tmp_path):
    """gdb makes the agent's thread leave by the system call exit, as a kill of that thread alone
    would: nobody serves the channel any more. Both snapshots from outside are what the agent's last
    one was, and leave the process as it is, byte by byte."""
    if platform.machine() != "x86_64":
        pytest.skip("names registers of x86_64")
    victim = traced(any_python)
    agent = File(snapshot(victim, tmp_path))
    out = gdb("-p", victim.pid, "-ex", "python [t.switch() for t in gdb.selected_inferior()."
              "threads() if t.name == 'tm-agent']", "-ex", "set $orig_rax = -1",
              "-ex", "set $rdi = %d" % SYS_EXIT, "-ex", "set $rsi = 0",
              "-ex", "set $pc = (long)&syscall", "-ex", "detach")
    wait_until(lambda: agent_threads(victim.pid) == [], "the agent's thread to go\n" + out)
    stop(victim.pid)
    before = writable_memory(victim.pid)
    passive = extract(tmp_path / "passive.tms", "--pid", victim.pid)
    assert writable_memory(victim.pid) == before
    out = gdb("-x", TM_GDB, "-p", victim.pid, "-ex", "tm-snapshot gdb.tms", "-ex", "tm-top 1",
              "-ex", "tm-status", cwd=tmp_path)
    assert "gdb.tms" in out, out
    wait_until(lambda: read_status(victim.pid)["TracerPid"] == "0", "gdb to leave")
    assert writable_memory(victim.pid) == before
    assert differences(agent, passive) == []
    assert differences(agent, File(tmp_path / "gdb.tms")) == []
    os.kill(victim.pid, signal.SIGCONT)
    victim.assert_advances()
    answer = tm_attach("--snapshot", victim.pid, cwd=tmp_path)
    assert answer.status != 0 and answer.err.count("\n") == 1, answer


def test_not_traced(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "reads.py")
    result = tm_analyze("extract", "--pid", victim.pid, "-o", tmp_path / "no.tms")
    assert (result.status, result.err.count("\n")) == (1, 1), result
    assert os.listdir(str(tmp_path)) == ["victim0"]
    gone = tm_analyze("extract", "--pid", 2 ** 22 + 1, "-o", tmp_path / "no.tms")
    assert (gone.status, gone.err.count("\n")) == (1, 1), gone


def test_detached(any_python, traced, tmp_path):
    victim = traced(any_python)
    must(tm_attach("--detach", victim.pid))
    result = tm_analyze("extract", "--pid", victim.pid, "-o", tmp_path / "no.tms")
    assert (result.status, result.err.count("\n")) == (1, 1), result


def test_flipped_bits(any_python, traced, tmp_path):
    victim = traced(any_python)
    path = make_core(victim.pid, tmp_path / "core")
    generator = random.Random(7)
    with open(path, "rb") as file:
        head = file.read(16384)
        file.seek(0)
        magic = file.read().find(b"TMSTATE1")
    spots = [generator.randrange(len(head)) for _ in range(40)]
    spots += [magic + generator.randrange(400) for _ in range(60)]
    failed = 0
    for i, spot in enumerate(spots):
        with open(path, "r+b") as file:
            file.seek(spot)
            old = file.read(1)
            file.seek(spot)
            file.write(bytes([old[0] ^ 1 << generator.randrange(8)]))
        out = tmp_path / ("%d.tms" % i)
        result = tm_analyze("extract", "--core", path, "-o", out)
        assert result.status in (0, 1), result
        assert result.err.count("\n") <= 1, result
        if result.status == 0:
            must(tm_analyze("verify", out))
            os.unlink(str(out))
        failed += result.status
        with open(path, "r+b") as file:
            file.seek(spot)
            file.write(old)
    assert failed > 0


def test_no_debug_information(tmp_path):
    """The message says what to install. Needs a static Python, which can be copied alone."""
    bare = str(tmp_path / "python3")
    done = subprocess.run(["objcopy", "--strip-debug", "--remove-section=.note.gnu.build-id",
                           "--remove-section=.gnu_debuglink",
                           os.path.realpath("/usr/bin/python3"), bare])
    if done.returncode != 0:
        pytest.skip("objcopy of /usr/bin/python3 failed")
    victim = subprocess.Popen([bare, "-X", "tracemalloc", "-c",
                               "import sys; print('ready', flush=True); sys.stdin.read()"],
                              env=dict(os.environ, PYTHONHOME="/usr"), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    try:
        assert victim.stdout.readline() == b"ready\n"
        result = tm_analyze("extract", "--pid", victim.pid, "-o", tmp_path / "no.tms")
    finally:
        victim.stdin.close()
        victim.wait(60)
        victim.stdout.close()
    assert (result.status, result.err.count("\n")) == (1, 1), result
    assert "no debug information" in result.err and "-dbg" in result.err
    assert "DEBUGINFOD_URLS" in result.err


@pytest.mark.pythons(low=(3, 8), high=(3, 13))
def test_standard_tracemalloc(python, start_victim, tmp_path):
    """take_snapshot's traces and ours: equal, but for what the taking itself allocates."""
    victim = start_victim(python, "stdlib_tracemalloc.py")
    victim.command("take")
    victim.expect("taken")
    victim.wait_until_blocked()
    result = tm_analyze("extract", "--pid", victim.pid, "-o", tmp_path / "live.tms")
    if "debug information" in result.err:
        assert (result.status, result.err.count("\n")) == (1, 1), result
        assert "python3" in result.err and "-dbg" in result.err
        pytest.skip("this interpreter has no debug information")
    must(result)
    must(tm_analyze("verify", tmp_path / "live.tms"))
    live = File(tmp_path / "live.tms")
    core = extract(tmp_path / "core.tms", "--core", make_core(victim.pid, tmp_path / "core"))
    victim.command("write", tmp_path / "own.json")
    victim.expect("written")
    assert live.traces and whole(live) == whole(core)

    def passing(frames):
        """Of the taking, of reading a command and of saying something; and frames, which up to 3.10
        are kept for the next call, of whatever function."""
        return frames[0][1] == recursion or any(
            os.path.basename(name) in ("tracemalloc.py", "_victim.py", "codecs.py") or
            (os.path.basename(name), line) in loop for name, line in frames)
    with open(victim.script) as file:
        lines = file.read().splitlines()
    first = lines.index("while True:") + 1
    recursion = lines.index("        return grow(depth - 1)") + 1
    loop = {(os.path.basename(victim.script), line) for line in range(first, first + 20)}
    with open(str(tmp_path / "own.json")) as file:
        own = collections.Counter(
            (size, tuple((name, line) for name, line in frames))
            for domain, size, frames in json.load(file) if not passing(frames))
    ours = collections.Counter()
    for trace in core.traces:
        frames = tuple((f.file, f.line or 0) for f in core.frames(trace.node))
        if not passing(frames):
            ours[trace.size, frames] += 1
    assert sum(own.values()) > 10000
    assert ours == own


def test_a_device_is_not_replaced(python, traced, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(str(pipe))
    result = tm_analyze("extract", "-o", pipe, "--pid", traced(python).pid)
    assert result.status == 1 and "which is not a regular file" in result.err
    assert len(result.err.splitlines()) == 1 and os.listdir(str(tmp_path)).count("pipe") == 1
    assert stat.S_ISFIFO(os.lstat(str(pipe)).st_mode)
