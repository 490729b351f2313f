# SPDX-License-Identifier: MIT
"""The gdb commands, in Debian's gdb, on a stopped process and on a core."""
import glob
import os
import re
import subprocess

import pytest

from passive import TM_GDB, gdb, make_core, whole
from tms import File
from tools import BIN_DIR, must, snapshot, tm_attach
from victim import marked_line, read_status, wait_until

pytestmark = pytest.mark.pythons(low=(3, 6), high=(3, 13))

LEAK = "_victim.py:%d" % marked_line("_victim.py", "LEAK")
COMMANDS = ("tm-attach", "tm-block", "tm-diff", "tm-help", "tm-snapshot", "tm-status", "tm-top")


def tm_gdb(*words, **options):
    return gdb("-x", TM_GDB, *words, **options)


def test_stopped_process_and_core_equal_the_agents(python, traced, tmp_path):
    victim = traced(python)
    agent = File(snapshot(victim, tmp_path))
    out = tm_gdb("-p", victim.pid, "-ex", "tm-snapshot live.tms", "-ex", "tm-top 1", cwd=tmp_path)
    assert str(tmp_path / "live.tms") in out, out
    assert LEAK in out, out
    core = make_core(victim.pid, tmp_path / "core")
    out = tm_gdb(python.path, core, "-ex", "tm-snapshot core.tms", "-ex", "tm-status",
                 "-ex", "tm-attach", cwd=tmp_path)
    assert "core %s" % core in out and "a core file cannot be traced" in out, out
    assert whole(agent) == whole(File(tmp_path / "live.tms")) == whole(File(tmp_path / "core.tms"))
    must(tm_attach("--detach", victim.pid))
    victim.assert_advances()


def test_stopped_inside_malloc(any_python, traced, tmp_path):
    victim = traced(any_python)
    feed = ("python with open('/proc/%d/fd/0' % gdb.selected_inferior().pid, 'w') as f: "
            "print('leak 500 5000', file=f)")
    out = tm_gdb("-p", victim.pid, "-ex", "tbreak malloc", "-ex", feed, "-ex", "continue",
                 "-ex", "tm-snapshot m.tms", "-ex", "bt 1", cwd=tmp_path)
    assert re.search(r"#0 .*malloc", out), out
    assert len(whole(File(tmp_path / "m.tms"))) >= 500
    victim.expect("leaked")
    victim.assert_advances()


def test_block_by_any_pointer_into_it(any_python, traced, tmp_path):
    victim = traced(any_python)
    biggest = max((t for t in File(snapshot(victim, tmp_path)).traces if t.size < 5000),
                  key=lambda trace: trace.size)
    for offset in (0, 1, biggest.size - 1):
        out = tm_gdb("-p", victim.pid, "-ex", "tm-block %#x + %d" % (biggest.address, offset))
        assert "memory block %#x: %d B" % (biggest.address, biggest.size) in out, out
        assert "Traceback (most recent call first):" in out
    assert "has no traced memory block at 0x10" in tm_gdb("-p", victim.pid, "-ex", "tm-block 16")


def test_mistakes_are_one_line(any_python, traced, tmp_path):
    victim = traced(any_python)
    cases = {"tm-top none": "is not a number of lines", "tm-top 1 2": "usage: tm-top",
             "tm-top 0": "is not a number of lines", "tm-top " + "9" * 30: "is not a number of",
             "tm-diff 'a b": "usage: tm-diff A B", "tm-diff /bin/true /bin/true": "Failed to load",
             "tm-block \"text\"": "Cannot call functions", "tm-block getpid()": "Cannot call",
             "tm-block 1 +": "syntax error", "tm-block -1": "has no traced memory block at 0xfff",
             "tm-block $nothing": "Invalid cast", "tm-snapshot /": "cannot write /",
             "tm-attach 1": "tm-attach is for the program that gdb has",
             "tm-attach --delay 0 12": "is for the program", "tm-attach -- true": "is for the prog",
             "tm-attach 'x": "No closing quotation", "tm-help me": "usage: tm-help",
             "tm-diff a": "usage: tm-diff A B", "tm-diff no.tms none.tms": "No such file",
             "tm-block": "usage: tm-block", "tm-block nothing_of_this_name": "No symbol",
             "tm-snapshot /nowhere/x.tms": "No such file", "tm-snapshot a b": "usage: tm-snapshot",
             "tm-status now": "usage: tm-status"}
    words = []
    for command in cases:
        words += ["-ex", "echo <\\n", "-ex", command]
    out = tm_gdb("-p", victim.pid, *words, cwd=tmp_path)
    assert "Traceback" not in out and "Error occurred" not in out, out
    answers = out.split("<\n")[1:]
    for (command, message), answer in zip(cases.items(), answers):
        assert message in answer, (command, answer)


def test_wrong_places_are_one_line(any_python, traced, start_victim, tmp_path):
    untraced = start_victim(any_python, "reads.py")
    for command in ("tm-snapshot", "tm-status", "tm-block 1"):
        out = tm_gdb("-p", untraced.pid, "-ex", command, cwd=tmp_path)
        assert "neither tm nor tracemalloc" in out or "no debug information" in out, out
        assert "Traceback" not in out, out
    out = tm_gdb("-p", untraced.pid, "-ex", "set tm-directory /nowhere", "-ex", "tm-attach --bogus",
                 "-ex", "show tm-directory", "-ex", "info threads", cwd=tmp_path)
    assert "nknown option --bogus" in out and "looked for in /nowhere" in out, out
    assert "Traceback" not in out and "* 1 " in out, out
    untraced.assert_advances()


def test_status(any_python, traced, tmp_path):
    victim = traced(any_python)
    out = tm_gdb("-p", victim.pid, "-ex", "tm-status", cwd=tmp_path)
    assert "process %d: Python %d.%d.%d" % ((victim.pid,) + any_python.version) in out, out
    assert "reads.py" in out and "traced by tm, 10 frames at most" in out, out
    assert re.search(r"ok, \d+ traces of \d+ bytes", out), out


def test_without_a_program(tmp_path):
    for command in ("tm-snapshot", "tm-top", "tm-status", "tm-attach", "tm-block 1"):
        out = tm_gdb("-ex", command, cwd=tmp_path)
        assert "there is no process and no core file" in out and "Traceback" not in out, out
    out = tm_gdb("-ex", "tm-help", "-ex", "complete tm-")
    for command in COMMANDS:
        assert command in out.split("debug information.")[1], out
    assert "tm-snapshot" in tm_gdb("-ex", "help data")


def test_attach_from_gdb(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "sleeps.py")
    victim.prepare(100)
    out = tm_gdb("-p", victim.pid, "-ex", "tm-attach --delay 0 --memory-threshold 0",
                 "-ex", "info threads", cwd=tmp_path)
    assert "tracing Python" in out and "tm-agent" in out, out
    victim.leak(100, 1000)
    assert LEAK in tm_gdb("-p", victim.pid, "-ex", "tm-top 1")
    must(tm_attach("--detach", victim.pid))
    victim.assert_advances()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGTERM"])
def test_attach_is_refused_after_a_signal(any_python, start_victim, name):
    victim = start_victim(any_python, "reads.py")
    kill = "python import os, signal; os.kill(gdb.selected_inferior().pid, signal.%s)" % name
    out = tm_gdb("-p", victim.pid, "-ex", kill, "-ex", "continue", "-ex", "tm-attach",
                 "-ex", "signal 0 &")
    assert "was stopped by %s and would die of it" % name in out, out
    assert "tm-agent" not in out
    wait_until(lambda: read_status(victim.pid)["TracerPid"] == "0", "gdb to leave")


def test_attach_is_refused_where_it_is_not_safe(any_python, start_victim, tmp_path):
    victim = start_victim(any_python, "reads.py")
    out = tm_gdb("-p", victim.pid, "-ex", "watch *(long *)$sp", "-ex", "tm-attach",
                 "-ex", "delete", "-ex", "break getpid", "-ex", "call (int)getpid()",
                 "-ex", "tm-attach", "-ex", "finish", cwd=tmp_path)
    assert "watches memory, which gdb cannot do while it has let go" in out, out
    assert "a function that gdb called in the program has not returned" in out, out
    assert "Letting go" not in out
    victim.assert_advances()


def test_installation(any_python, start_victim, monkeypatch, tmp_path):
    """By -x, and by gdb's auto-load of the payload that Python has imported from there."""
    prefix = os.path.realpath(str(tmp_path / "prefix"))
    done = subprocess.run(["cmake", "--install", os.path.join(BIN_DIR, ".."), "--prefix", prefix],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    monkeypatch.delenv("TM_BIN_DIR", raising=False)
    out = gdb("-x", os.path.join(prefix, "share", "tm", "gdb", "tm.py"), "-ex",
              "python print(find_program('tm-analyze'))", cwd=tmp_path)
    assert os.path.join(prefix, "bin", "tm-analyze") in out, out
    package, = glob.glob(os.path.join(prefix, "lib*", "**", "tm", "python"), recursive=True)
    script = ("import sys; sys.path.insert(0, %r); import pytracemalloc; pytracemalloc.enable(); "
              "kept = [bytes(1000) for _ in range(1000)]; print('ready', flush=True); "
              "sys.stdin.read()" % package)
    program = subprocess.Popen([any_python.path, "-c", script], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    try:
        assert program.stdout.readline() == b"ready\n"
        loaded = ["-iex", "set auto-load python-scripts on", "-iex", "set auto-load safe-path " + prefix,
                  "-iex", "set auto-load scripts-directory %s/share/gdb/auto-load" % prefix]
        out = gdb(*loaded + ["-p", program.pid, "-ex", "tm-top 1"], cwd=tmp_path)
        assert "<string>:1: size=" in out, out
        loaded[3] = "set auto-load safe-path /nowhere"
        out = gdb(*loaded + ["-p", program.pid, "-ex", "tm-top 1"], cwd=tmp_path)
        assert 'Undefined command: "tm-top"' in out, out
    finally:
        program.stdin.close()
        program.wait(60)
        program.stdout.close()
