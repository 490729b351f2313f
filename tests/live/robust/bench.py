# SPDX-License-Identifier: MIT
"""The bench on which the cases of docs/ROBUSTNESS.md are run.

A case is a function of a Bench, which starts victims and attaches to them; it returns what
happened in a few words, raises AssertionError where the promise is broken, and Impossible where
this machine cannot make the case."""
import collections
import contextlib
import os
import shutil
import struct
import subprocess
import tempfile

from tools import BIN_DIR, Result
from victim import Victim, read_status, wait_until

BIN = os.path.abspath(BIN_DIR)
LIB = os.environ.get("TM_LIB_DIR") or os.path.join(BIN, "..", "lib")
HELPER = os.path.join(os.path.abspath(LIB), "libtm-victim-helper.so")
LIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
VICTIMS = os.path.join(LIVE, "victims")
NOBODY = 65534
STEPS = ("looked seized stopped saved frame regs mask mmap-entry mmap written call parked created "
         "home restored detached worked memfd filled ready running").split()

DEEP = "a 2000-frame stack"
Case = collections.namedtuple("Case", "group name function each_python")
CASES = []


class Impossible(Exception):
    """This machine cannot make the case; the message says why."""


def case(group, name, each_python=False):
    def register(function):
        CASES.append(Case(group, name, function, each_python))
        return function
    return register


def run(command, **options):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, **options)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


class Bench:
    """One run of one case with one Python; what it started ends with it. attaches: how often the
    mechanism goes in and out where a case does not say so itself."""

    def __init__(self, python, attaches=None):
        self.python = python
        self.attaches = attaches or 3
        self.folder = tempfile.mkdtemp(prefix="tm-robust-")
        os.chmod(self.folder, 0o755)
        self.undo = []
        self.stops_us = []  # (stop, of which waiting for a processor)

    def close(self):
        for function in reversed(self.undo):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                function()
        shutil.rmtree(self.folder, ignore_errors=True)

    def need(self, *names):
        for name in names:
            if shutil.which(name) is None:
                raise Impossible("there is no %s" % name)

    # Victims

    def start(self, script, *args, **options):
        victim = Victim(self.python, script, args,
                        os.path.join(self.folder, "victim%d" % len(self.undo)), **options)
        self.undo.append(victim.end)
        victim.wait_for_ready()
        return victim

    def hostile(self, kind, arg=0, **options):
        return self.start("hostile.py", kind, HELPER, arg, **options)

    def native(self, *command, **options):
        """A program that says "ready" on a line of its own."""
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE,
                                   stdin=subprocess.PIPE, **options)

        def end():
            process.kill()
            process.wait()
        self.undo.append(end)
        assert process.stdout.readline().startswith(b"ready"), "the victim did not start"
        return process

    def compile(self, source, *args, compiler="gcc"):
        path = os.path.join(self.folder, "program%d" % len(self.undo))
        done = run([compiler, "-x", "c", source, "-o", path] + list(args))
        if done.status != 0:
            raise Impossible("%s cannot build it: %s" % (compiler, done.err.strip()[-80:]))
        return path

    # Attaching

    def inject(self, pid, *args, prefix=(), **env):
        """The mechanism alone, with a payload that does nothing; in and out again."""
        done = subprocess.run(
            list(prefix) + [os.path.join(BIN, "tm-inject-test"), str(pid)] + list(args),
            env=dict(os.environ, **env), stdout=subprocess.PIPE, timeout=120)
        head, _, message = done.stdout.decode().partition(" message=")
        words = dict(word.split("=", 1) for word in head.split() if "=" in word)
        words.update(status=done.returncode, message=message.strip())
        if "worst_us" in words:
            self.stops_us.append((int(words["worst_us"]), int(words["wait_us"])))
        return words

    def must_inject(self, pid, *args):
        words = self.inject(pid, *(("--search-ms", "10000") + args))
        assert words["status"] == 0, words

    def attach(self, *args, prefix=(), cwd=None):
        return run(list(prefix) + [os.path.join(BIN, "tm-attach")] + list(args),
                   cwd=cwd or self.folder)

    def cycle(self, pid, prefix=()):
        """tm-attach, a snapshot into our folder, --detach."""
        result = self.attach("--delay", 0, "--memory-threshold", 0, pid, prefix=prefix)
        assert result.status == 0 and result.err == "", result
        result = self.attach("--snapshot", pid, prefix=prefix)
        assert result.status == 0, result
        assert os.path.getsize(os.path.join(self.folder, result.out.strip())) > 0
        result = self.attach("--detach", pid, prefix=prefix)
        assert result.status == 0 and result.err == "", result

    def in_and_out(self, victim, times=None):
        """The mechanism some times, then tm-attach; the victim is unharmed."""
        before = settled_facts(victim.pid)
        for _ in range(times or self.attaches):
            self.must_inject(victim.pid)
            victim.assert_advances()
        self.cycle(victim.pid)
        victim.assert_advances()
        assert_facts(victim.pid, before)
        return "attached"

    def refused(self, pid, status, *words, args=(), prefix=()):
        """tm-attach says no, in one line, with that status and those words."""
        result = self.attach(*(tuple(args) + (pid,)), prefix=prefix)
        assert result.status == status, result
        assert result.out == "" and result.err.count("\n") == 1, result
        for word in words:
            assert str(word).lower() in result.err.lower(), result
        return "refused, status %d" % status


def facts(pid):
    """What no attach may change; the kernel does not show the alternate stack (see the case).
    glibc's own signals are left aside, as victim.py says, and threads that come and go."""
    status = read_status(pid)
    own = ~(1 << 31 | 1 << 32)
    return {key: "%x" % (int(status[key], 16) & own) if key.startswith("Sig") else status[key]
            for key in ("SigBlk", "SigIgn", "SigCgt", "TracerPid", "Seccomp")}


def settled_facts(pid):
    """The facts of a moment when libc does not block all signals, as it does while it makes a
    thread. Looked at and returned by one read: a second one may meet the next such moment."""
    found = {}

    def settled():
        found.update(facts(pid))
        return int(found["SigBlk"], 16) & 1 == 0

    wait_until(settled, "SIGHUP to be let in", 10)
    return found


def assert_facts(pid, before):
    # libc blocks signals for a moment whenever it makes a thread or forks.
    seen = {}

    def is_as_before():
        seen.update(facts(pid))
        return seen == before

    with contextlib.suppress(AssertionError):
        wait_until(is_as_before, "the process to be as before", 10)
    assert seen == before, "before %s, after %s" % (before, seen)


def count_of(victim, index=100):
    return struct.unpack_from("<Q", victim._page, 8 * index)[0]


def blocks(pid):
    """Anonymous memory that can be executed: where tm-attach's code lies until the payload is in."""
    with open("/proc/%d/maps" % pid) as file:
        lines = [line.split() for line in file]
    return sorted(words[0] for words in lines if len(words) < 6 and "x" in words[1])


def map_count(pid):
    with open("/proc/%d/maps" % pid) as file:
        return sum(1 for _ in file)


def system_call(pid):
    """The number of the one that the main thread sleeps in, as text (1: write on x86-64)."""
    with open("/proc/%d/syscall" % pid) as file:
        return file.read().split()[0]


def beats_on(process, lines=2):
    """A native victim goes on saying "beat"."""
    for _ in range(lines):
        line = process.stdout.readline()
        assert line.startswith(b"beat"), (line, process.poll())


def need_root():
    if os.getuid() != 0:
        raise Impossible("needs root")


def may_unshare(*args):
    probe = run(["unshare"] + list(args) + ["true"])
    if probe.status != 0:
        raise Impossible("unshare %s is not permitted here" % " ".join(args))
