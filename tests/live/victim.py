# SPDX-License-Identifier: MIT
"""A victim: a Python program under trace, and what /proc says of it.

Nothing here waits for a fixed time: it waits for a line, for a counter to move
or for a state in /proc, each with a bound that is there only to end a hang.
"""
import collections
import contextlib
import mmap
import os
import re
import select
import struct
import subprocess
import time

VICTIMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "victims")
BEATS = 64
PATIENCE_SECONDS = 60.0
# Signals 32 and 33 are the C library's own. It takes hold of 33 when a process makes its first
# thread, and never lets go; tm-attach makes one.
LIBC_SIGNALS = 1 << 31 | 1 << 32

# What must be the same after an attach and a detach. `mapped` counts mappings that have a name or
# can be executed; anonymous memory comes and goes with the program's own allocations.
Facts = collections.namedtuple("Facts", "threads fds mapped signals tracer")


def wait_until(condition, what, seconds=PATIENCE_SECONDS):
    """Polls condition() until it gives something true, and returns that."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < end, "waited %g s in vain for %s" % (seconds, what)
        time.sleep(0.005)


def read_status(pid, tid=None):
    """/proc/PID/status as a dict (of one thread, where tid is given)."""
    path = "/proc/%d/status" % pid if tid is None else "/proc/%d/task/%d/status" % (pid, tid)
    with open(path) as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def switches(pid):
    """How often each thread was put on and taken off a processor: a ptrace stop counts here, so a
    blocked process that was left alone shows the same numbers afterwards."""
    result = {}
    for tid in sorted(int(name) for name in os.listdir("/proc/%d/task" % pid)):
        status = read_status(pid, tid)
        result[tid] = (status["voluntary_ctxt_switches"], status["nonvoluntary_ctxt_switches"])
    return result


def wait_until_blocked(pid):
    """Until every thread sleeps and no longer moves."""
    last = None

    def settled():
        nonlocal last
        now = switches(pid)
        states = {read_status(pid, tid)["State"][0] for tid in now}
        result = states == {"S"} and now == last
        last = now
        return result
    wait_until(settled, "process %d to block" % pid)


def as_set(fact):
    """A fact as a set, so that what differs can be named."""
    return set(fact.items()) if isinstance(fact, dict) else set(fact)


def capture(pid):
    """The Facts of a process."""
    threads, signals = set(), {}
    for name in os.listdir("/proc/%d/task" % pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = read_status(pid, int(name))
            threads.add(int(name))
            signals[int(name)] = tuple(
                "%016x" % (int(status[key], 16) & ~LIBC_SIGNALS)
                for key in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"))
    fds = {}
    for name in os.listdir("/proc/%d/fd" % pid):
        with contextlib.suppress(FileNotFoundError):
            fds[int(name)] = os.readlink("/proc/%d/fd/%s" % (pid, name))
    mapped = collections.Counter()
    with open("/proc/%d/maps" % pid) as file:
        for line in file:
            fields = line.split(None, 5)
            name = fields[5].strip() if len(fields) > 5 else ""
            if name in ("[heap]", "[stack]"):
                continue
            if "x" in fields[1] or name:
                mapped[name, fields[1]] += 1
    return Facts(threads, fds, mapped, signals, read_status(pid)["TracerPid"])


class Victim:
    """Starts victims/SCRIPT under a Python, with pipes to and from it and a page shared with it.

    user: a user id to run as (needs root). limits: a dict of resource.RLIMIT_* to set in it.
    pass_fds: descriptors of ours that it inherits."""

    def __init__(self, python, script, args, folder, user=None, limits=None, pass_fds=()):
        self.python = python
        self.script = os.path.join(VICTIMS, script)
        os.makedirs(str(folder), exist_ok=True)
        self.folder = str(folder)
        page_path = os.path.join(self.folder, "page")
        with open(page_path, "wb") as file:
            file.write(b"\0" * 4096)
        os.chmod(page_path, 0o666)
        with open(page_path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), 4096)
        env = dict(os.environ, TM_VICTIM_PAGE=page_path, PYTHONDONTWRITEBYTECODE="1")
        env.pop("PYTHONPATH", None)
        prefix = []
        if user is not None:
            prefix = ["setpriv", "--reuid=%d" % user, "--regid=%d" % user, "--clear-groups"]

        def prepare():
            import resource
            for what, value in (limits or {}).items():
                resource.setrlimit(what, (value, value))
        self.process = subprocess.Popen(
            prefix + [python.path, self.script] + [str(arg) for arg in args], env=env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.folder if user is None else "/",
            preexec_fn=prepare if limits else None, pass_fds=pass_fds)
        self.pid = self.process.pid
        self._unread = b""
        self.threads = None

    # Talk

    def wait_for_ready(self):
        """The victim's first line says how many threads it has between commands."""
        self.threads = int(self.expect("ready")[0])

    def read_line(self, seconds=PATIENCE_SECONDS):
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = end - time.monotonic()
            ready = select.select([self.process.stdout], [], [], max(left, 0))[0]
            assert ready, "the victim said nothing for %g s" % seconds
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, "the victim ended with status %s" % self.process.wait(10)
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode().split()

    def expect(self, verb):
        """Reads a line that must begin with `verb`; returns the words behind it."""
        words = self.read_line()
        assert words[:1] == [verb], "expected %r, the victim said %r" % (verb, " ".join(words))
        return words[1:]

    def command(self, *words):
        """Sends a command the way that this victim listens to, without waiting for the answer."""
        line = " ".join(str(word) for word in words)
        if os.path.basename(self.script) in ("sleeps.py", "busy.py", "forks.py"):
            # The first byte last: it is what the victim looks at.
            raw = line.encode() + b"\0"
            start = 8 * BEATS
            self._page[start + 1:start + len(raw)] = raw[1:]
            self._page[start:start + 1] = raw[:1]
        else:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def prepare(self, count):
        self.command("prepare", count)
        self.expect("prepared")

    def leak(self, count, size_bytes):
        """Leaks on the line marked LEAK; returns how many bytes that are, headers included."""
        self.command("leak", count, size_bytes)
        return int(self.expect("leaked")[0])

    def allocators(self):
        self.command("allocators")
        return self.expect("allocators")

    # Look

    def beats(self):
        return struct.unpack_from("<%dQ" % BEATS, self._page, 0)

    def assert_advances(self):
        """Every thread whose heart has beaten beats again. A victim that waits for commands gets
        one, so that it has a reason to."""
        before = self.beats()
        if os.path.basename(self.script) in ("reads.py", "threads.py", "unruly.py", "inside.py"):
            self.command("allocators")
            self.expect("allocators")
        alive = [i for i in range(BEATS) if before[i]] or [0]
        wait_until(lambda: all(self.beats()[i] > before[i] for i in alive),
                   "the heartbeats of the victim's threads %s" % alive)
        status = self.process.poll()
        assert status is None, "the victim ended with status %d" % status

    def facts(self):
        """The Facts, once threads that the victim has joined are gone from the kernel's list too."""
        wait_until(lambda: len(os.listdir("/proc/%d/task" % self.pid)) == self.threads,
                   "the victim to have %d threads" % self.threads)
        return capture(self.pid)

    def assert_facts(self, before):
        """Threads, descriptors, mappings, signals and tracer are as in `before`. The agent's thread
        has left the process's list a moment after it answered, so wait for that."""
        def differences():
            after = capture(self.pid)
            result = []
            for field in Facts._fields:
                old, new = as_set(getattr(before, field)), as_set(getattr(after, field))
                if old != new:
                    result.append("%s: gone %s, new %s" % (field, sorted(old - new),
                                                           sorted(new - old)))
            return result
        end = time.monotonic() + PATIENCE_SECONDS
        while differences() and time.monotonic() < end:
            time.sleep(0.01)
        assert not differences(), "\n".join(differences())

    def wait_until_blocked(self):
        wait_until_blocked(self.pid)

    def end(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def marked_line(script, mark):
    """The number of the one line of victims/SCRIPT that ends with the comment `# MARK`."""
    with open(os.path.join(VICTIMS, script)) as file:
        lines = [i for i, line in enumerate(file, 1) if re.search(r"# %s$" % mark, line.rstrip())]
    assert len(lines) == 1, "%s: mark %s on lines %s" % (script, mark, lines)
    return lines[0]
