# SPDX-License-Identifier: MIT
"""The verbs of tm-attach on a process that is traced: what they print, what they do to files, and
how a session ends by itself. One Python: what differs by version is in test_first_light.py."""
import glob
import os
import re
import signal
import subprocess
import tempfile

import pytest

from tools import BIN_DIR, analyze_json, must, snapshot, tm_attach
from victim import read_status, wait_until

NOBODY = 65534


def files(folder):
    return sorted(os.path.basename(path) for path in glob.glob(str(folder / "*.tms")))


def attach(victim, folder, *args):
    return must(tm_attach("--memory-threshold", 0, *(args + (victim.pid,)), cwd=folder)).out


def wait_until_detached(victim):
    wait_until(lambda: tm_attach("--status", victim.pid).status == 27, "the end of the session")
    assert "tm-agent" not in open("/proc/%d/maps" % victim.pid).read()
    victim.assert_advances()


def test_attach_says_where(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "threads.py")
    out = attach(victim, tmp_path)
    path = str(tmp_path / ("tracemalloc-%d-0001.tms" % victim.pid))
    assert out.count("\n") == 1 and path in out
    assert re.search(r"stopped for \d+\.\d ms", out)
    assert snapshot(victim, tmp_path) == path
    must(tm_attach("--detach", victim.pid))


def test_status(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "threads.py")
    attach(victim, tmp_path, "--delay", 3600, "--traceback-limit", 7)
    snapshot(victim, tmp_path)
    out = must(tm_attach("--status", victim.pid)).out
    assert "%d: tracing, Python %d.%d.%d" % ((victim.pid,) + any_python.version) in out
    for pattern in (r"frames: +7", r"traced: +\d+ \w+ in \d+ blocks \(peak", r"own memory: +\d",
                    r"dropped: +0\n", r"snapshots: +1 written, 0 failed", r"last file: +/.*-0001",
                    r"next snapshot: +in 3\d\d\d s\n", r"goes to: +/.*-0002.tms"):
        assert re.search(pattern, out), (pattern, out)
    must(tm_attach("--detach", victim.pid))


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(any_python, start_victim, tmp_path, streams):
    """What is opened then must not be standard output to what is printed."""
    victim = start_victim(any_python, "threads.py")
    before = victim.facts()
    tool = os.path.join(BIN_DIR, "tm-attach")
    for verb in ("--delay 0", "--status", "--snapshot", "--detach"):
        command = "exec %s %s %d %s" % (tool, verb, victim.pid, streams)
        assert subprocess.call(["sh", "-c", command], cwd=str(tmp_path)) == 0, verb
        victim.assert_advances()
    assert len(files(tmp_path)) == 1
    victim.assert_facts(before)


def test_standard_output_that_is_full(any_python, start_victim, tmp_path):
    """It is done, and said that it could not be said."""
    victim = start_victim(any_python, "threads.py")
    done = subprocess.run(["sh", "-c", "exec %s --delay 0 %d > /dev/full" % (
        os.path.join(BIN_DIR, "tm-attach"), victim.pid)], stderr=subprocess.PIPE, cwd=str(tmp_path))
    assert done.returncode == 1 and b"standard output" in done.stderr, done
    must(tm_attach("--detach", victim.pid))


def test_attached_already(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "threads.py")
    attach(victim, tmp_path, "--delay", 0)
    again = tm_attach(victim.pid, cwd=tmp_path)
    assert again.status == 25 and again.err.count("\n") == 1 and str(victim.pid) in again.err
    out = must(tm_attach("--delay", 0.01, "--repeat", 3, "--output", "n-$counter.tms", victim.pid,
                         cwd=tmp_path)).out
    assert "new options" in out
    wait_until(lambda: len(files(tmp_path)) == 3, "three snapshots")
    wait_until(lambda: "on request only" in must(tm_attach("--status", victim.pid)).out,
               "the last repeat")
    assert files(tmp_path) == ["n-0001.tms", "n-0002.tms", "n-0003.tms"]
    must(tm_attach("--detach", victim.pid))


def test_names_are_not_taken_from_anybody(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "threads.py")
    (tmp_path / "a-0001.tms").write_text("precious")
    attach(victim, tmp_path, "--output", "a-$counter.tms")
    assert snapshot(victim, tmp_path).endswith("a-0002.tms")
    must(tm_attach("--detach", victim.pid))
    assert (tmp_path / "a-0001.tms").read_text() == "precious"
    result = tm_attach("--output", "a-0001.tms", victim.pid, cwd=tmp_path)
    assert result.status == 64 and "File exists" in result.err, result
    assert tm_attach("--status", victim.pid).status == 27  # a failed start leaves nothing behind


@pytest.mark.parametrize("template", ["no/such/folder/$counter.tms", "$pid/$counter.tms"])
def test_no_such_folder(any_python, start_victim, tmp_path, template):
    victim = start_victim(any_python, "threads.py")
    before = victim.allocators()
    result = tm_attach("--output", template, victim.pid, cwd=tmp_path)
    assert result.status == 64 and result.err.count("\n") == 1, result
    assert "No such file or directory" in result.err
    wait_until_detached(victim)
    assert victim.allocators() == before


def test_bad_limit(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "threads.py")
    result = tm_attach("--traceback-limit", 1000000, victim.pid, cwd=tmp_path)
    assert result.status == 62 and "range" in result.err, result
    wait_until_detached(victim)


def test_snapshot_elsewhere(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "threads.py")
    attach(victim, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    out = must(tm_attach("--snapshot", "--output", "here.tms", victim.pid, cwd=other)).out
    assert out == str(other / "here.tms") + "\n" and files(other) == ["here.tms"]
    assert os.path.dirname(snapshot(victim, tmp_path)) == str(tmp_path)
    must(tm_attach("--detach", victim.pid))


def test_lifetime(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "threads.py")
    allocators = victim.allocators()
    attach(victim, tmp_path, "--lifetime", 0.2)
    wait_until_detached(victim)
    assert victim.allocators() == allocators


def test_max_snapshots(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "threads.py")
    allocators = victim.allocators()
    attach(victim, tmp_path, "--delay", 0.05, "--max-snapshots", 2)
    wait_until_detached(victim)
    assert len(files(tmp_path)) == 2
    assert victim.allocators() == allocators


@pytest.mark.pythons(low=(3, 4), high=(3, 13))
@pytest.mark.parametrize("options", [[], ["--native"]])
def test_detach_where_tracemalloc_keeps_our_hooks(python, start_victim, tmp_path, options):
    """It calls those that it found at its last start once more, before it looks anew."""
    if options and python.version < (3, 6):
        pytest.skip("the same as without")
    victim = start_victim(python, "tracemalloc_again.py")
    for _ in range(6):
        must(tm_attach("--delay", 0, "--memory-threshold", 0, *(options + [victim.pid]),
                       cwd=tmp_path))
        for _ in range(2):
            victim.command("trace")
            victim.expect("traced")
        must(tm_attach("--detach", victim.pid))
        for _ in range(2):
            victim.command("trace")
            victim.expect("traced")


def test_between_execs_that_fail(any_python, start_victim, tmp_path):
    """While one thread is inside exec, the process has no new threads."""
    text = tmp_path / "no-program"
    text.write_text("no program\n")
    text.chmod(0o755)
    victim = start_victim(any_python, "execs_in_vain.py", text)
    for _ in range(15):
        attach(victim, tmp_path)
        must(tm_attach("--detach", victim.pid))


def test_several(any_python, start_victim, tmp_path):
    """One that fails does not stop the others; the status is the failure's."""
    victims = [start_victim(any_python, "threads.py") for _ in range(2)]
    gone = subprocess.Popen(["true"])
    gone.wait()
    result = tm_attach(victims[0].pid, gone.pid, victims[1].pid, cwd=tmp_path)
    assert result.status == 10 and result.err.count("\n") == 1, result
    assert [line.split(":")[0] for line in result.out.splitlines()] == [
        str(victim.pid) for victim in victims]
    assert must(tm_attach("--status", *(v.pid for v in victims))).out.count(": tracing,") == 2
    assert must(tm_attach("--detach", *(v.pid for v in victims))).out.count(": detached,") == 2


FAMILY = """
import os, subprocess, sys, time
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(0.05)
    children.append(pid)
cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
print(*children)
sys.stdout.flush()
sys.stdin.read()
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
cat.stdin.close()
cat.wait()
"""


def test_children(any_python, tmp_path):
    """A parent, its two forked workers, and a cat that is passed over."""
    parent = subprocess.Popen([any_python.path, "-c", FAMILY], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    try:
        family = [parent.pid] + [int(word) for word in parent.stdout.readline().split()]
        out = must(tm_attach("--children", parent.pid, cwd=tmp_path)).out
        assert [int(line.split(":")[0]) for line in out.splitlines()] == family
        out = must(tm_attach("--snapshot", "--children", parent.pid)).out
        assert len(set(out.splitlines())) == 3 and len(files(tmp_path)) == 3
        assert must(tm_attach("--detach", "--children", parent.pid)).out.count("detached") == 3
    finally:
        parent.stdin.close()
        assert parent.wait(60) == 0
        parent.stdout.close()


def test_forked_child_has_no_agent(any_python, tmp_path):
    """A child that was forked under trace is not mistaken for its parent, and can be attached to
    on its own."""
    parent = subprocess.Popen(
        [any_python.path, "-c", "import sys; print(0); sys.stdout.flush(); sys.stdin.readline()\n"
         + FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        parent.stdout.readline()
        must(tm_attach(parent.pid, cwd=tmp_path))
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        child = int(parent.stdout.readline().split()[0])
        assert tm_attach("--status", child).status == 27
        assert str(child) in must(tm_attach(child, cwd=tmp_path)).out
        assert must(tm_attach("--status", child, parent.pid)).out.count(": tracing,") == 2
        must(tm_attach("--detach", parent.pid, child))
    finally:
        parent.stdin.close()
        assert parent.wait(60) == 0
        parent.stdout.close()


def test_other_users_folder(any_python, start_victim, as_root):
    """Root attaches to a process of a user who may not write in root's folder."""
    with tempfile.TemporaryDirectory(prefix="tm-test-") as folder:
        os.chmod(folder, 0o755)
        python = "/usr/bin/python3"
        victim = subprocess.Popen(
            ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups", python,
             "-c", "import time, sys\nprint(1)\nsys.stdout.flush()\nwhile True: time.sleep(0.05)"],
            stdout=subprocess.PIPE, cwd="/")
        try:
            victim.stdout.readline()
            out = must(tm_attach(victim.pid, cwd=folder)).out
            place = os.path.join(folder, "tracemalloc-%d" % victim.pid)
            assert place in out and os.stat(place).st_uid == NOBODY
            path = must(tm_attach("--snapshot", victim.pid)).out.strip()
            assert os.path.dirname(path) == place and os.stat(path).st_uid == NOBODY
            must(tm_attach("--detach", victim.pid))
        finally:
            victim.kill()
            victim.wait()
            victim.stdout.close()


def launch(script, *args, **options):
    return subprocess.Popen([os.path.join(BIN_DIR, "tm-attach")] + [str(arg) for arg in args]
                            + ["--", options["python"].path, "-c", script],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            cwd=str(options["cwd"]))


# It sleeps for short times: a signal that comes between Python's last look and a read() that
# waits for ever is not seen by any Python before that read ends.
WAITS = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *args: sys.exit(7))
kept = [sys.stdin.readline()]
print(len(kept))
sys.stdout.flush()
while True:
    kept.append("x" * 1000)
    time.sleep(0.01)
"""


def test_launch(any_python, tmp_path):
    """Streams, a signal and the exit status pass through."""
    tool = launch(WAITS, "--delay", 0.05, python=any_python, cwd=tmp_path)
    wait_until(lambda: files(tmp_path), "the first snapshot")
    tool.stdin.write(b"a\n")
    tool.stdin.flush()
    assert tool.stdout.readline() == b"1\n"
    tool.send_signal(signal.SIGUSR1)
    assert tool.wait(60) == 7  # before its standard input ends
    out, err = tool.communicate()
    assert out == b""
    assert err.decode().count("\n") == 1 and "tracing Python" in err.decode()


FIRST = """first = [b"x" * (1000 + i) for i in range(1000)]
import sys
sys.stdout.write("up\\n")
sys.stdout.flush()
sys.stdin.readline()
"""


def test_launch_traces_from_the_first_line(python, tmp_path):
    """The program is held until its interpreter can be hooked. On a machine that has no processor
    for the agent it may be late, hence the second and third try."""
    script = tmp_path / "first.py"
    script.write_text(FIRST)
    for attempt in range(3):
        tool = subprocess.Popen(
            [os.path.join(BIN_DIR, "tm-attach"), "--delay", "0", "--memory-threshold", "0", "--",
             python.path, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd=str(tmp_path))
        line = tool.stderr.readline().decode()
        if ": tracing Python" not in line:
            # On an old Python that waits already, and never made a GIL.
            tool.communicate()
            continue
        pid = line.split(":")[0]
        assert tool.stdout.readline() == b"up\n"
        path = must(tm_attach("--snapshot", pid, cwd=tmp_path)).out.strip()
        found = analyze_json("top", "-n", 100000, path)
        assert tool.communicate(b"\n", timeout=60)[1] == b""
        assert tool.returncode == 0
        if "first.py" in str(found):
            return
    pytest.fail("the first line was not traced in three launches")


def test_launch_dies_of_a_signal(any_python, tmp_path):
    tool = launch("import os; os.kill(os.getpid(), 9)", python=any_python, cwd=tmp_path)
    tool.communicate(timeout=60)
    assert tool.returncode == -signal.SIGKILL


def test_launch_what_is_not_there(tmp_path):
    result = tm_attach("--", "/no/such/program", cwd=tmp_path)
    assert result.status == 127 and result.err.count("\n") == 1


def test_dry_run(any_python, start_victim):
    victim = start_victim(any_python, "threads.py")
    assert str(victim.pid) in must(tm_attach("--dry-run", victim.pid)).out
    assert read_status(victim.pid)["TracerPid"] == "0"
    assert tm_attach("--status", victim.pid).status == 27
