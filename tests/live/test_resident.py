# SPDX-License-Identifier: MIT
"""The agent while it lives in a program: what reaches it through the channel, what it leaves to the
program, where it writes."""
import ctypes
import glob
import os
import random
import socket
import struct
import subprocess

import pytest

from tools import must, snapshot, tm_attach
from victim import wait_until

SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438  # the same on every machine
MAGIC, HELLO, STATUS = 0x31434D54, 1, 3  # format/control.h

libc = ctypes.CDLL(None, use_errno=True)


def message(kind, body=b"", seq=1, magic=MAGIC, body_bytes=None):
    return struct.pack("<IHHII", magic, kind, 0, seq,
                       len(body) if body_bytes is None else body_bytes) + body


def sockets_of(pid):
    """Copies of the UNIX sockets of a process: both ends of the channel are among them."""
    pidfd = libc.syscall(SYS_PIDFD_OPEN, pid, 0)
    if pidfd < 0:
        pytest.skip("this kernel has no pidfd_open")
    found = []
    for name in os.listdir("/proc/%d/fd" % pid):
        try:
            target = os.readlink("/proc/%d/fd/%s" % (pid, name))
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:"):
            fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(name), 0)
            if fd >= 0:
                found.append(socket.socket(fileno=fd))
    os.close(pidfd)
    return found


def hello(channel):
    """A private connection, whose other end went to the agent."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.sendmsg([message(HELLO)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                        struct.pack("i", theirs.fileno()))])
    theirs.close()
    return mine


def send_garbage(channels, rng):
    """Noise, headers that lie, connections that say nothing, halves, and too much at once."""
    for channel in channels:
        channel.setblocking(False)
    texts = [b"\0", b"garbage", message(99), message(STATUS, magic=1), message(HELLO),
             message(STATUS, b"key=value", body_bytes=4000000000), message(STATUS, b"no end"),
             b"\xff" * 30000, message(STATUS)[:9]]
    texts += [bytes(bytearray(rng.randrange(256) for _ in range(rng.randrange(1, 200))))
              for _ in range(50)]
    kept = []
    for text in texts:
        for channel in channels:
            try:
                channel.send(text)
                if rng.random() < 0.3:
                    kept.append(hello(channel))
                    kept[-1].send(text)
            except OSError:
                pass
    return kept


def test_garbage_on_the_channel(any_python, start_victim, tmp_path):
    """The agent serves the next client as before, and the program goes on."""
    victim = start_victim(any_python, "threads.py")
    before = victim.facts()
    must(tm_attach("--delay", 0, "--memory-threshold", 0, victim.pid, cwd=tmp_path))
    rng = random.Random(4)
    for _ in range(5):
        channels = sockets_of(victim.pid)
        assert channels
        kept = send_garbage(channels, rng)
        for channel in channels + kept:
            channel.close()
        victim.assert_advances()
        assert "tracing" in must(tm_attach("--status", victim.pid)).out
        snapshot(victim, tmp_path)
    must(tm_attach("--detach", victim.pid))
    victim.assert_facts(before)


def test_clients_that_go_in_the_middle(any_python, start_victim, tmp_path):
    """tm-attach is killed while it waits for an answer; tracing goes on as it was asked for."""
    victim = start_victim(any_python, "threads.py")
    must(tm_attach("--delay", 0.05, victim.pid, cwd=tmp_path))
    from tools import BIN_DIR
    for _ in range(20):
        client = subprocess.Popen([os.path.join(BIN_DIR, "tm-attach"), "--snapshot",
                                   str(victim.pid)], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        client.kill()
        client.wait()
    written = len(glob.glob(str(tmp_path / "*.tms")))
    wait_until(lambda: len(glob.glob(str(tmp_path / "*.tms"))) > written + 1, "more snapshots")
    victim.assert_advances()
    must(tm_attach("--detach", victim.pid))


PROFILED = """
import sys, threading
calls = {"trace": 0, "profile": 0, "thread": 0}
def trace(frame, event, arg):
    calls["trace"] += 1
    return trace
def profile(frame, event, arg):
    calls["profile"] += 1
def thread_profile(frame, event, arg):
    calls["thread"] += 1
def work():
    return [str(i) * 10 for i in range(100)]
def other():
    sys.setprofile(thread_profile)
    while not ended.wait(0.001):
        work()
    assert sys.getprofile() is thread_profile
ended = threading.Event()
thread = threading.Thread(target=other)
thread.start()
sys.settrace(trace)
sys.setprofile(profile)
for line in iter(sys.stdin.readline, ""):
    before = dict(calls)
    work()
    deadline = 1000
    while calls["thread"] == before["thread"] and deadline:
        ended.wait(0.01)
        deadline -= 1
    same = sys.gettrace() is trace and sys.getprofile() is profile
    sys.stdout.write("%s %s\\n" % (same, all(calls[key] > before[key] for key in calls)))
    sys.stdout.flush()
ended.set()
thread.join()
"""


def test_profile_and_trace_functions_are_the_programs(python, tmp_path):
    """sys.setprofile and sys.settrace of the program: there and called before, under trace, after."""
    program = subprocess.Popen([python.path, "-c", PROFILED], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)

    def ask():
        program.stdin.write(b"\n")
        program.stdin.flush()
        return program.stdout.readline().split()
    try:
        assert ask() == [b"True", b"True"]
        must(tm_attach("--delay", 0, "--traceback-limit", 8, program.pid, cwd=tmp_path))
        assert ask() == [b"True", b"True"]
        must(tm_attach("--snapshot", program.pid))
        assert ask() == [b"True", b"True"]
        must(tm_attach("--detach", program.pid))
        assert ask() == [b"True", b"True"]
    finally:
        program.stdin.close()
        assert program.wait(60) == 0
        program.stdout.close()


def test_in_target(any_python, start_victim, tmp_path):
    """The template is meant where the program is: relative to its directory, on its mounts."""
    victim = start_victim(any_python, "threads.py")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    must(tm_attach("--delay", 0, "--in-target", "--output", "mine-$pid-$counter.tms", victim.pid,
                   cwd=elsewhere))
    must(tm_attach("--snapshot", victim.pid, cwd=elsewhere))
    assert os.listdir(str(elsewhere)) == []
    assert os.path.exists(os.path.join(victim.folder, "mine-%d-0001.tms" % victim.pid))
    must(tm_attach("--detach", victim.pid))
