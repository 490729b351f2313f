# SPDX-License-Identifier: MIT
"""The cases of docs/ROBUSTNESS.md: what an attach must survive. test_robustness.py runs each as a
test; as a program, `robustness.py --markdown [PATTERN]` runs them and prints the table.

A case is a function of a Bench, which starts victims and attaches to them; it returns what
happened in a few words, raises AssertionError where the promise is broken, and Impossible where
this machine cannot make the case."""
import collections
import contextlib
import fnmatch
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from pythons import find_pythons
from tools import BIN_DIR, Result
from victim import Victim, capture, read_status, wait_until

BIN = os.path.abspath(BIN_DIR)
LIB = os.environ.get("TM_LIB_DIR") or os.path.join(BIN, "..", "lib")
HELPER = os.path.join(os.path.abspath(LIB), "libtm-victim-helper.so")
NOBODY = 65534
STEPS = ("looked seized stopped saved frame regs mask mmap-entry mmap written call parked created "
         "home restored detached worked memfd filled ready running").split()

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
    """One run of one case with one Python; what it started ends with it."""

    def __init__(self, python):
        self.python = python
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

    def in_and_out(self, victim, times=3):
        """The mechanism some times, then tm-attach; the victim is unharmed."""
        before = settled_facts(victim.pid)
        for _ in range(times):
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


def beats_on(process, lines=2):
    """A native victim goes on saying "beat"."""
    for _ in range(lines):
        line = process.stdout.readline()
        assert line.startswith(b"beat"), (line, process.poll())


# Where it blocks, and what it does

def blocked(kind, name):
    case("blocked in", name, True)(lambda b: b.in_and_out(b.start("blocked.py", kind)))


for _kind, _name in (("sleep", "sleep"), ("select", "select"), ("poll", "poll"),
                     ("epoll", "epoll"), ("event", "Event.wait"),
                     ("timed-event", "Event.wait with a time-out"), ("join", "Thread.join"),
                     ("accept", "socket.accept"), ("pipe", "os.read of a pipe"),
                     ("waitpid", "os.waitpid"), ("sigwait", "sigwait")):
    blocked(_kind, _name)


def hostile(group, kind, name, arg=0, each_python=True, **options):
    case(group, name, each_python)(lambda b: b.in_and_out(b.hostile(kind, arg, **options)))


hostile("blocked in", "recv", "socket.recv")
hostile("blocked in", "lock", "a lock")
case("blocked in", "a 2000-frame stack", True)(
    lambda b: b.in_and_out(b.start("blocked.py", "deep-alone")))
hostile("busy", "busy-alone", "in Python")
hostile("busy", "gil-alone", "in C with the GIL held, 500 ms at a time", 500)
hostile("busy", "churn", "8 threads in malloc, one arena", 1)
hostile("busy", "churn", "8 threads in malloc, 8 arenas", 8)
hostile("busy", "storm", "import and dlopen storm")
case("busy", "threads constantly born", True)(
    lambda b: b.in_and_out(b.start("blocked.py", "thread-storm")))
case("busy", "fork storm", True)(lambda b: b.in_and_out(b.start("blocked.py", "fork-storm")))
hostile("busy", "many", "500 threads", 500)
hostile("states", "vfork", "the main thread in D state (vfork parent)", 1500)
hostile("signals", "signals-alone", "SIGALRM and SIGPROF every ms")
hostile("signals", "sigtrap-ignored-alone", "SIGTRAP ignored")
hostile("signals", "sigtrap-blocked-alone", "SIGTRAP blocked")
hostile("signals", "altstack-alone", "faulthandler's alternate stack")
hostile("interpreter", "sub", "a busy subinterpreter")


@case("signals", "SIGTRAP handled: the handler is never called", True)
def sigtrap_handled(b):
    victim = b.hostile("sigtrap-handled-alone")
    b.in_and_out(victim, 20)
    assert count_of(victim) == 0
    return "attached"


@case("blocked in", "calls with a time-out: none cut short, none longer")
def timeouts(b):
    for kind in "nanosleep clock-nanosleep poll ppoll select sem-timedwait".split():
        victim = b.native(os.path.join(BIN, "tm-victim-calls"), kind)
        for _ in range(5):
            b.must_inject(victim.pid, "--any")
        beats_on(victim)
        os.kill(victim.pid, signal.SIGKILL)
    return "attached"


@case("busy", "in C with the GIL held for longer than tm-attach waits")
def gil_held(b):
    victim = b.hostile("gil-alone", 16000)
    result = b.attach("--delay", 0, victim.pid)
    assert result.status in (0, 56), result
    victim.assert_advances()
    if result.status == 0:
        b.attach("--detach", victim.pid)
    else:
        assert "GIL" in result.err, result
    return "attached late" if result.status == 0 else "refused, status 56"


@case("states", "the only thread in D state (vfork parent)")
def only_thread_in_d(b):
    program = b.native(sys.executable, "-c", """
import ctypes, sys
helper = ctypes.CDLL(sys.argv[1])
print("ready"); sys.stdout.flush()
helper.tm_helper_vfork(4000)
print("beat"); sys.stdout.flush()
sys.stdin.read()
""", HELPER)
    wait_until(lambda: read_status(program.pid)["State"][0] == "D", "the D state")
    words = b.inject(program.pid, "--search-ms", "300")
    assert words["status"] == 50 and "uninterruptible" in words["message"], words
    beats_on(program, 1)
    b.must_inject(program.pid)
    return "refused, status 50; attached afterwards"


@case("states", "stopped (SIGSTOP, Ctrl-Z), continued in the middle", True)
def continued(b):
    for number in (signal.SIGSTOP, signal.SIGTSTP):
        victim = b.hostile("group")
        os.kill(victim.pid, number)
        wait_until(lambda: read_status(victim.pid)["State"][0] == "T", "the stop")
        timer = threading.Timer(0.4, os.kill, (victim.pid, signal.SIGCONT))
        timer.start()
        b.must_inject(victim.pid)
        timer.join()
        # The stop is not ours.
        b.stops_us.clear()
        victim.assert_advances()
        assert read_status(victim.pid)["TracerPid"] == "0"
    return "attached"


@case("states", "stopped and never continued")
def stopped(b):
    victim = b.start("blocked.py", "event")
    os.kill(victim.pid, signal.SIGSTOP)
    wait_until(lambda: read_status(victim.pid)["State"][0] == "T", "the stop")
    words = b.inject(victim.pid, "--boot-ms", "500")
    assert words["status"] == 51, words
    assert read_status(victim.pid)["State"][0] == "T"
    os.kill(victim.pid, signal.SIGCONT)
    victim.assert_advances()
    wait_until(lambda: len(os.listdir("/proc/%d/task" % victim.pid)) == 2, "the late thread's end")
    b.must_inject(victim.pid)
    return "refused, status 51; attached afterwards"


@case("signals", "a flood of SIGUSR1 and real-time signals, none lost", True)
def flood(b):
    """The next SIGUSR1 is sent when the last was counted: two that are pending would be one."""
    victim = b.hostile("flood-alone")
    done = threading.Event()
    sent = [0]

    def send():
        while not done.is_set():
            number = signal.SIGUSR1 if sent[0] % 2 else signal.SIGRTMIN + 3
            os.kill(victim.pid, number)
            sent[0] += 1
            wait_until(lambda: count_of(victim) >= sent[0], "signal %d to arrive" % sent[0], 20)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(10):
            b.must_inject(victim.pid)
        b.cycle(victim.pid)
    finally:
        done.set()
        sender.join()
    assert count_of(victim) == sent[0] > 0
    victim.assert_advances()
    return "attached"


@case("interpreter", "finalizing", True)
def finalizing(b):
    victim = b.hostile("finalizing-alone")
    victim.expect("finalizing")
    b.must_inject(victim.pid)
    result = b.attach("--delay", 0, victim.pid)
    victim.assert_advances()
    assert result.status in (0, 55, 65), result
    if result.status == 0:
        assert b.attach("--detach", victim.pid).status == 0
    victim.assert_advances()
    return "attached" if result.status == 0 else "refused, status %d" % result.status


@case("interpreter", "free-threaded")
def free_threaded(b):
    for python in find_pythons():
        if python.free_threaded:
            b.python = python
            return b.in_and_out(b.hostile("busy-alone"))
    raise Impossible("no free-threaded Python is installed")


def preloaded(name, pattern):
    @case("allocators", name + " preloaded", True)
    def preload(b):
        import glob
        found = glob.glob("/usr/lib/*/" + pattern) + glob.glob("/usr/lib/" + pattern)
        if not found:
            raise Impossible("%s is not installed" % name)
        os.environ["LD_PRELOAD"] = found[0]
        try:
            victims = [b.start("blocked.py", "event"), b.hostile("churn", 8), b.hostile("busy-alone")]
        finally:
            del os.environ["LD_PRELOAD"]
        for victim in victims:
            b.in_and_out(victim)
        return "attached"


preloaded("jemalloc", "libjemalloc.so.2")
preloaded("tcmalloc", "libtcmalloc_minimal.so.4")
preloaded("mimalloc", "libmimalloc.so.2*")


@case("registers", "AVX state and red zone")
def registers(b):
    victim = b.native(os.path.join(BIN, "tm-victim-registers"))
    for _ in range(50):
        b.must_inject(victim.pid, "--any")
        assert victim.poll() is None
    return "attached"


# Refused, and why

def unused_pid():
    with open("/proc/sys/kernel/pid_max") as file:
        highest = int(file.read())
    return next(pid for pid in range(highest - 1, 1, -1) if not os.path.exists("/proc/%d" % pid))


@case("refused", "no such PID")
def no_process(b):
    return b.refused(unused_pid(), 10, "process")


@case("refused", "zombie")
def zombie(b):
    child = subprocess.Popen(["true"])
    wait_until(lambda: read_status(child.pid)["State"][0] == "Z", "the end")
    said = b.refused(child.pid, 11, "zombie")
    child.wait()
    return said


@case("refused", "a thread's TID")
def thread_id(b):
    victim = b.start("blocked.py", "event")
    tid = max(int(name) for name in os.listdir("/proc/%d/task" % victim.pid))
    return b.refused(tid, 12, victim.pid)


@case("refused", "tm-attach itself")
def itself(b):
    done = run(["sh", "-c", "exec %s $$" % os.path.join(BIN, "tm-attach")], cwd=b.folder)
    assert done.status == 13 and done.err.count("\n") == 1, done
    return "refused, status 13"


@case("refused", "a kernel thread")
def kernel_thread(b):
    with contextlib.suppress(OSError):
        if read_status(2)["Name"] == "kthreadd":
            return b.refused(2, 14, "kernel")
    raise Impossible("no kernel thread is seen here")


@case("refused", "not Python")
def not_python(b):
    program = b.native("sh", "-c", "echo ready; read x")
    return b.refused(program.pid, 16, "Python")


@case("elsewhere", "unpatched Python 2.7 (its functions redirected)")
def unpatched(b):
    for python in find_pythons():
        if python.version[:2] == (2, 7):
            b.python = python
            victim = b.start("reads.py")
            b.cycle(victim.pid)
            victim.assert_advances()
            return "attached, detached"
    raise Impossible("no unpatched Python 2.7 is installed")


@case("refused", "32-bit")
def class32(b):
    # A whole program: for (;;) pause(), in the 32-bit ABI.
    code = b"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7"
    head = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, 0x8048054, 52, 0, 0, 52,
                       32, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, 0, 0x8048000, 0x8048000, 84 + len(code), 84 + len(code), 5, 4096)
    path = os.path.join(b.folder, "class32")
    with open(path, "wb") as file:
        file.write(head + segment + code)
    os.chmod(path, 0o755)
    try:
        process = subprocess.Popen([path])
    except OSError as error:
        raise Impossible("the kernel runs no 32-bit programs (%s)" % error.strerror)
    b.undo.append(process.kill)
    wait_until(lambda: read_status(process.pid)["Name"] == "class32", "the exec")
    said = b.refused(process.pid, 20, "32-bit")
    assert process.poll() is None
    return said


@case("refused", "static, without dlopen")
def static(b):
    source = os.path.join(b.folder, "static.c")
    with open(source, "w") as file:
        file.write('#include <stdio.h>\nint main(void) { puts("ready"); fflush(stdout); getchar(); }')
    program = b.native(b.compile(source, "-static"))
    return b.refused(program.pid, 22, "static")


def traced_by(name, command):
    @case("refused", "traced by %s (names its PID)" % name)
    def traced(b):
        b.need(command[0])
        victim = b.start("blocked.py", "event")
        tracer = subprocess.Popen([word.replace("PID", str(victim.pid)) for word in command],
                                  stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        b.undo.append(tracer.kill)
        wait_until(lambda: read_status(victim.pid)["TracerPid"] != "0", "the tracer")
        said = b.refused(victim.pid, 24, "traced by", read_status(victim.pid)["TracerPid"])
        tracer.terminate()
        tracer.wait()
        wait_until(lambda: read_status(victim.pid)["TracerPid"] == "0", "the tracer's end")
        victim.assert_advances()
        b.must_inject(victim.pid)
        return said + "; attached afterwards"


traced_by("strace", ["strace", "-qq", "-f", "-o", "/dev/null", "-p", "PID"])
traced_by("gdb", ["gdb", "-nx", "-q", "-ex", "continue", "-p", "PID"])


@case("refused", "attached already")
def attached_already(b):
    victim = b.start("blocked.py", "event")
    assert b.attach("--delay", 0, victim.pid).status == 0
    said = b.refused(victim.pid, 25, "already")
    assert b.attach("--detach", victim.pid).status == 0
    return said


def need_root():
    if os.getuid() != 0:
        raise Impossible("needs root")


def as_nobody(b):
    """Words that run a command as nobody, with the tools where nobody can reach them."""
    need_root()
    b.need("setpriv")
    return ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups",
            "--inh-caps=-all"]


def for_everybody(b):
    """A Python that nobody may run, and a copy of the tools; or Impossible."""
    folder = os.path.join(b.folder, "tools")
    for name in ("bin", "lib"):
        os.makedirs(os.path.join(folder, name))
    for name in ("bin/tm-attach", "lib/libtm-payload.so", "lib/libtm-victim-helper.so"):
        shutil.copy(os.path.join(BIN, "..", name), os.path.join(folder, name))
    shutil.copytree(os.path.join(os.path.dirname(os.path.abspath(__file__)), "victims"),
                    os.path.join(folder, "victims"))
    run(["chmod", "-R", "a+rX", folder])
    # The system's own first: a file that a user may run but not read makes a process non-dumpable.
    for python in sorted(find_pythons(), key=lambda p: not p.path.startswith("/usr/")):
        probe = run(as_nobody(b) + [python.path, "-c", "import ctypes"], cwd="/")
        if probe.status == 0 and (3, 6) <= python.version[:2] <= (3, 13):
            return folder, python
    raise Impossible("no Python here can be run by another user")


def start_as_nobody(b, kind, arg=0, limits=None):
    import victim as harness
    folder, b.python = for_everybody(b)
    old = harness.VICTIMS
    harness.VICTIMS = os.path.join(folder, "victims")
    try:
        return folder, b.start("hostile.py", kind, os.path.join(folder, "lib/libtm-victim-helper.so"),
                               arg, user=NOBODY, limits=limits)
    finally:
        harness.VICTIMS = old


@case("users", "another user's process, as root")
def as_root(b):
    _, victim = start_as_nobody(b, "busy-alone")
    b.must_inject(victim.pid)
    b.cycle(victim.pid)
    victim.assert_advances()
    return "attached"


@case("users", "as the process' own user")
def own_user(b):
    folder, victim = start_as_nobody(b, "busy-alone")
    out = os.path.join(b.folder, "out")
    os.mkdir(out)
    os.chown(out, NOBODY, NOBODY)
    tool = as_nobody(b) + [os.path.join(folder, "bin/tm-attach")]
    for args in (["--delay", "0", victim.pid], ["--snapshot", victim.pid], ["--detach", victim.pid]):
        result = run(tool + args, cwd=out)
        assert result.status == 0, result
    victim.assert_advances()
    assert os.listdir(out)
    return "attached"


@case("refused", "another user's process, not as root")
def other_user(b):
    folder, _ = for_everybody(b)
    victim = b.start("blocked.py", "event")
    result = run(as_nobody(b) + [os.path.join(folder, "bin/tm-attach"), victim.pid], cwd="/")
    assert result.status == 30 and "user" in result.err, result
    victim.assert_advances()
    return "refused, status 30"


@case("refused", "non-dumpable, not as root")
def non_dumpable(b):
    folder, victim = start_as_nobody(b, "non-dumpable-alone")
    result = run(as_nobody(b) + [os.path.join(folder, "bin/tm-attach"), victim.pid], cwd="/")
    assert result.status in (30, 32), result
    victim.assert_advances()
    return "refused, status %d" % result.status


@case("refused", "Yama")
def yama(b):
    path = "/proc/sys/kernel/yama/ptrace_scope"
    if not os.path.exists(path):
        raise Impossible("this kernel has no Yama")
    if open(path).read().strip() == "0" or os.getuid() == 0:
        raise Impossible("needs ptrace_scope above 0 and a user that is not root")
    victim = b.start("blocked.py", "event")
    return b.refused(victim.pid, 31, "ptrace_scope")


@case("refused", "PyPy")
def pypy(b):
    b.need("pypy3")
    program = b.native("pypy3", "-c", "print('ready', flush=True); input()")
    return b.refused(program.pid, 17, "PyPy")


@case("refused", "the main thread has ended, others live on")
def leader_gone(b):
    victim = b.hostile("leader-gone")
    wait_until(lambda: read_status(victim.pid)["State"][0] == "Z", "the main thread's end")
    said = b.refused(victim.pid, 15, "main thread")
    before = victim.beats()[0]
    wait_until(lambda: victim.beats()[0] > before, "the other thread's heart")
    return said


@case("refused", "the budget of threads spent (RLIMIT_NPROC)")
def nproc(b):
    _, victim = start_as_nobody(b, "busy-alone", limits={resource.RLIMIT_NPROC: 1})
    maps = len(open("/proc/%d/maps" % victim.pid).readlines())
    said = b.refused(victim.pid, 52, "thread")
    victim.assert_advances()
    # glibc keeps the stack that it could not use.
    assert len(open("/proc/%d/maps" % victim.pid).readlines()) <= maps + 2
    return said


@case("refused", "the budget of memory spent (RLIMIT_AS)", True)
def address_space(b):
    victim = b.hostile("busy-alone")
    size = int(read_status(victim.pid)["VmSize"].split()[0]) * 1024
    statuses = set()
    for room in (0, 128 << 10, 1200 << 10, 2 << 20):
        resource.prlimit(victim.pid, resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
        result = b.attach("--delay", 0, victim.pid)
        assert result.status in (52, 53, 55, 66), (room, result)
        assert result.err.count("\n") == 1, result
        statuses.add(result.status)
        victim.assert_advances()
    resource.prlimit(victim.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    wait_until(lambda: len(os.listdir("/proc/%d/task" % victim.pid)) == 1, "the late thread's end")
    b.cycle(victim.pid)
    return "refused, status %s; attached afterwards" % " or ".join(str(s) for s in sorted(statuses))


@case("refused", "the budget of descriptors spent (RLIMIT_NOFILE)", True)
def descriptors(b):
    victim = b.hostile("nofile-alone", limits={resource.RLIMIT_NOFILE: 64})
    wait_until(lambda: len(os.listdir("/proc/%d/fd" % victim.pid)) == 64, "no descriptor to be left")
    result = b.attach("--delay", 0, victim.pid)
    assert result.status in (52, 66) and result.err.count("\n") == 1, result
    victim.assert_advances()
    return "refused, status %d" % result.status


@case("refused", "a corrupt payload, or one for another machine")
def bad_payload(b):
    victim = b.start("blocked.py", "event")
    good = open(os.path.join(LIB, "libtm-toy-payload.so"), "rb").read()
    texts = {"text": b"not a payload", "empty": b"", "machine": good[:18] + b"\xb7\0" + good[20:],
             "short": good[:len(good) // 2], "class": good[:4] + b"\1" + good[5:]}
    for name, data in texts.items():
        path = os.path.join(b.folder, name)
        with open(path, "wb") as file:
            file.write(data)
        words = b.inject(victim.pid, "--payload", path)
        assert words["status"] in (40, 53) and words["message"], (name, words)
    victim.assert_advances()
    return "refused, status 40"


@case("refused", "two tm-attach at once: one wins", True)
def two_at_once(b):
    victim = b.start("blocked.py", "event")
    for _ in range(5):
        both = [subprocess.Popen([os.path.join(BIN, "tm-attach"), "--delay", "0", str(victim.pid)],
                                 cwd=b.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                for _ in range(2)]
        said = [process.communicate()[1].decode() for process in both]
        statuses = sorted(process.returncode for process in both)
        # One that comes when the other is through finds it attached, and gives new options.
        assert statuses[0] == 0 and statuses[1] in (0, 25, 26), (statuses, said)
        assert b.attach("--detach", victim.pid).status == 0
        victim.assert_advances()
    return "one attached, the other refused or handed its options over"


# Elsewhere

def may_unshare(*args):
    probe = run(["unshare"] + list(args) + ["true"])
    if probe.status != 0:
        raise Impossible("unshare %s is not permitted here" % " ".join(args))


def child_in(b, unshare, setup, kind="busy-alone"):
    """A victim behind `unshare ARGS sh -c "SETUP; exec python..."`; its PID as we see it."""
    may_unshare(*unshare)
    page = os.path.join(b.folder, "page")
    with open(page, "wb") as file:
        file.write(b"\0" * 4096)
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "victims", "hostile.py")
    process = b.native("unshare", *(list(unshare) + [
        "sh", "-c", setup + ' exec "$0" "$@"', b.python.path, script, kind, HELPER]),
        env=dict(os.environ, TM_VICTIM_PAGE=page, PYTHONDONTWRITEBYTECODE="1"))
    if "--fork" in unshare:
        kids = run(["pgrep", "-P", process.pid]).out.split()
        b.undo.append(lambda: os.kill(int(kids[0]), signal.SIGKILL))
        return int(kids[0]), page
    return process.pid, page


def beats_in(page):
    with open(page, "rb") as file:
        return struct.unpack("<Q", file.read(8))[0]


def elsewhere(name, unshare, setup):
    @case("elsewhere", name)
    def attach_there(b):
        need_root()
        pid, page = child_in(b, unshare, setup.replace("{folder}", b.folder))
        for _ in range(3):
            b.must_inject(pid)
        b.cycle(pid)
        before = beats_in(page)
        wait_until(lambda: beats_in(page) > before, "the heart")
        return "attached, the snapshot is where tm-attach was called"


PRIVATE = ["--mount", "--propagation", "private"]
elsewhere("payload not in the target's mount namespace", PRIVATE,
          "mount -t tmpfs tm-test %s;" % LIB)
elsewhere("noexec /tmp", PRIVATE, "mount -t tmpfs -o noexec tm-test /var/tmp; "
          "mount --bind /tmp /tmp; mount -o remount,bind,noexec /tmp;")
elsewhere("read-only root", PRIVATE, "mount --bind {folder} {folder}; mount -o remount,bind,ro /;")
elsewhere("another PID namespace", ["--pid", "--fork"], "")
elsewhere("another PID and mount namespace with its own /proc",
          ["--pid", "--fork", "--mount-proc"], "")
elsewhere("another user namespace", ["--user", "--map-root-user"], "")


@case("elsewhere", "no /proc in the target's mount namespace")
def without_proc(b):
    need_root()
    pid, page = child_in(b, PRIVATE, "mount -t tmpfs tm-test /proc;")
    words = b.inject(pid)
    assert words["status"] == 53 and "/proc" in words["message"], words
    before = beats_in(page)
    wait_until(lambda: beats_in(page) > before, "the heart")
    return "refused, status 53"


@case("elsewhere", "libpython or the executable deleted by an upgrade", True)
def deleted(b):
    """The interpreter's own file is copied, run and removed."""
    real = os.path.realpath(b.python.path)
    prefix = run([b.python.path, "-c", "import sys; print(sys.base_prefix)"]).out.strip()
    copy = os.path.join(b.folder, "bin")
    os.mkdir(copy)
    shutil.copy(real, os.path.join(copy, "python"))
    libraries = re.findall(r"=> (\S*libpython\S*) ", run(["ldd", real]).out)
    for library in libraries:
        shutil.copy(library, copy)
    os.environ.update(LD_LIBRARY_PATH=copy, PYTHONHOME=prefix)
    old, b.python = b.python, type("Copy", (), {"path": os.path.join(copy, "python")})
    try:
        victim = b.hostile("busy-alone")
    finally:
        del os.environ["LD_LIBRARY_PATH"], os.environ["PYTHONHOME"]
        b.python = old
    shutil.rmtree(copy)
    return b.in_and_out(victim)


@case("elsewhere", "libpython loaded RTLD_LOCAL by a program", True)
def rtld_local(b):
    libraries = re.findall(r"=> (\S*libpython\S*) ", run(["ldd", b.python.path]).out)
    if not libraries:
        raise Impossible("this Python is static")
    prefix = run([b.python.path, "-c", "import sys; print(sys.base_prefix)"]).out.strip()
    program = b.native(os.path.join(BIN, "tm-victim-embeds"), libraries[0], prefix)
    b.must_inject(program.pid)
    b.cycle(program.pid)
    beats_on(program)
    return "attached"


@case("elsewhere", "a seccomp filter that forbids ptrace and ppoll", True)
def seccomp_ptrace(b):
    return b.in_and_out(b.hostile("seccomp-ptrace-alone"))


@case("elsewhere", "a seccomp filter that forbids memfd_create", True)
def seccomp_memfd(b):
    victim = b.hostile("seccomp-memfd-alone")
    said = b.refused(victim.pid, 52, "memfd_create")
    victim.assert_advances()
    return said


@case("elsewhere", "a seccomp filter that ends the process at memfd_create", True)
def seccomp_kill(b):
    need_root()
    victim = b.hostile("seccomp-kill-alone")
    said = b.refused(victim.pid, 34, "seccomp", "319")
    victim.assert_advances()
    return said


@case("elsewhere", "a musl program (the mechanism)")
def musl(b):
    b.need("musl-gcc")
    source = os.path.join(b.folder, "musl.c")
    with open(source, "w") as file:
        file.write('#include <pthread.h>\n#include <dlfcn.h>\n#include <stdio.h>\n#include <time.h>\n'
                   'static void *t(void *a) { for (;;) nanosleep(&(struct timespec){0, 10000000}, 0);'
                   ' return a; }\n'
                   'int main(void) { pthread_t p; pthread_create(&p, 0, t, 0); dlsym(0, "x");\n'
                   'puts("ready"); fflush(stdout); for (int i = 0;; i++) {'
                   ' nanosleep(&(struct timespec){0, 50000000}, 0); printf("beat %d\\n", i);'
                   ' fflush(stdout); } }')
    toy = os.path.join(b.folder, "toy.so")
    here = os.path.dirname(os.path.abspath(__file__))
    done = run(["musl-gcc", "-shared", "-fPIC", "-I", os.path.join(here, "..", ".."),
                os.path.join(here, "toy_payload.c"), "-o", toy])
    if done.status != 0:
        raise Impossible("musl-gcc cannot build the payload: " + done.err[-100:])
    program = b.native(b.compile(source, compiler="musl-gcc"))
    words = b.inject(program.pid, "--any", "--payload", toy, "--search-ms", "300")
    beats_on(program, 3)
    # Where musl has no unwind tables (Debian's), no stack can be judged.
    assert words["status"] == 0 or "unwound" in words["message"], words
    return "attached" if words["status"] == 0 else "refused, status %d" % words["status"]


# In the middle

def at_every_step(name, what, check, **env):
    @case("in the middle", name)
    def steps(b):
        for step in STEPS:
            check(b, step, what, env)
        return "unharmed"


def signalled(b, step, what, env):
    victim = b.start("blocked.py", "event")
    b.inject(victim.pid, TM_DEBUG_STEP="%s:%s" % (step, what), **env)
    victim.assert_advances()
    wait_until(lambda: facts(victim.pid)["SigBlk"] == "0", "the thread to be home", 10)
    assert read_status(victim.pid)["TracerPid"] == "0", step
    again = b.inject(victim.pid)
    assert again["status"] == 0 or again["error"] == "already-attached", (step, again)
    victim.assert_advances()
    victim.end()


def execs(b, step, what, env):
    victim = b.native(os.path.join(BIN, "tm-victim-execs"))
    b.inject(victim.pid, "--any", "--boot-ms", "1500", TM_DEBUG_STEP="%s:%s" % (step, what), **env)
    assert victim.stdout.readline() == b"ready\n", (step, victim.poll())
    b.must_inject(victim.pid, "--any")
    assert victim.poll() is None and read_status(victim.pid)["TracerPid"] == "0"
    victim.kill()


def killed(b, step, what, env):
    victim = b.start("blocked.py", "event")
    words = b.inject(victim.pid, "--boot-ms", "2000", TM_DEBUG_STEP="%s:%s" % (step, what), **env)
    assert words["status"] != 0, (step, words)
    assert victim.process.wait(10) == -signal.SIGKILL


at_every_step("the worker or tm-attach killed at every step", "die", signalled)
at_every_step("both killed at every step", "exit", signalled)
at_every_step("SIGINT to tm-attach at every step", "int", signalled)
at_every_step("SIGTERM to tm-attach at every step", "term", signalled)
at_every_step("the injector stopped at every step", "stop", signalled,
              TM_DEBUG_STOP_MS=os.environ.get("TM_TEST_STOP_MS", "400"))
at_every_step("the target killed at every step", "kill", killed)
at_every_step("the target calls exec at every step", "usr1", execs)


@case("over time", "cycles of attach and detach leak nothing", True)
def cycles(b):
    victim = b.start("blocked.py", "event")
    b.cycle(victim.pid)
    wait_until(lambda: len(os.listdir("/proc/%d/task" % victim.pid)) == 2, "the agent's end")
    before = capture(victim.pid)
    maps = len(open("/proc/%d/maps" % victim.pid).readlines())
    for _ in range(int(os.environ.get("TM_TEST_CYCLES", "8"))):
        b.cycle(victim.pid)
    victim.assert_advances()
    wait_until(lambda: len(os.listdir("/proc/%d/task" % victim.pid)) == 2, "the agent's end")
    victim.assert_facts(before)
    after = len(open("/proc/%d/maps" % victim.pid).readlines())
    assert after <= maps + 4, (maps, after)
    return "nothing left behind"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@case("over time", "gunicorn, 4 workers under requests: attach, two snapshots, detach")
def gunicorn(b):
    import http.client
    b.need("gunicorn")
    with open(os.path.join(b.folder, "app.py"), "w") as file:
        file.write("kept = []\n"
                   "def app(environ, start_response):\n"
                   "    kept.append([environ['PATH_INFO'] * 3 for _ in range(20)])\n"
                   "    del kept[:-200]\n"
                   "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
                   "    return [b'hello ' + environ['PATH_INFO'].encode()]\n")
    port = free_port()
    server = subprocess.Popen(
        ["gunicorn", "-w", "4", "-b", "127.0.0.1:%d" % port, "--timeout", "120", "app:app"],
        cwd=b.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    b.undo.append(lambda: (server.terminate(), server.wait(30)))
    done, failed, served = threading.Event(), [], [0]

    def request(number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/%d" % number)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.status == 200 and body == b"hello /%d" % number, (answer.status, body)

    def is_up():
        with contextlib.suppress(OSError, http.client.HTTPException):
            request(0)
            return len(run(["pgrep", "-P", server.pid]).out.split()) == 4
    wait_until(is_up, "gunicorn")
    workers = run(["pgrep", "-P", server.pid]).out.split()

    def load():
        while not done.is_set():
            try:
                request(served[0])
                served[0] += 1
            except Exception as error:  # any failure at all is one too many
                failed.append(repr(error))
    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        result = b.attach("--delay", 0, "--memory-threshold", 0, "--children", server.pid)
        assert result.status == 0 and result.out.count("\n") == 5, result
        for _ in range(2):
            mark = served[0]
            wait_until(lambda: served[0] > mark + 50, "requests")
            assert b.attach("--snapshot", *workers).status == 0
        result = b.attach("--detach", server.pid, *workers)
        assert result.status == 0, result
        mark = served[0]
        wait_until(lambda: served[0] > mark + 50, "requests")
    finally:
        done.set()
        for client in clients:
            client.join()
    assert not failed, failed[:3]
    assert run(["pgrep", "-P", server.pid]).out.split() == workers
    return "%d requests, none failed" % (served[0] if "--exact" in sys.argv else served[0] // 100 * 100)


# The table

TABLE_VERSIONS = ((3, 8, "pyenv"), (3, 11, "pyenv"), (3, 11, "debian"), (3, 13, "pyenv"))


def table_pythons():
    """3.8, 3.11, Debian's own and 3.13, as far as they are here."""
    found = []
    for major, minor, origin in TABLE_VERSIONS:
        found += [p for p in find_pythons()
                  if p.version[:2] == (major, minor) and p.name.endswith(origin)][:1]
    return found or [p for p in find_pythons() if (3, 6) <= p.version[:2] <= (3, 13)][-1:]


def run_case(item, python):
    """(result, stops) of one case; a broken promise is an exception."""
    bench = Bench(python)
    try:
        return item.function(bench), bench.stops_us
    finally:
        bench.close()


def cell(item, python):
    try:
        said, stops = run_case(item, python)
    except Impossible as error:
        return "not made here: %s" % error, ""
    except Exception as error:  # the table shows it
        print("%s / %s: %r" % (item.name, python.name, error), file=sys.stderr)
        return "**failed**", ""
    net = max((stop - wait for stop, wait in stops), default=None)
    return said, "" if net is None else "%.1f" % (net / 1000.0)


def markdown(pattern):
    pythons = table_pythons()
    print("| | case | result | " + " | ".join(p.name for p in pythons) + " |")
    print("|---|---|---|" + "---|" * len(pythons))
    group = None
    for item in CASES:
        if not fnmatch.fnmatch(item.name, pattern):
            continue
        cells = [cell(item, p) for p in (pythons if item.each_python else pythons[-1:])]
        results = []
        for said, _ in cells:
            if said not in results:
                results.append(said)
        stops = [stop for _, stop in cells]
        if not item.each_python:
            stops = [""] * (len(pythons) - 1) + stops
        print("| %s | %s | %s | %s |" % (item.group if item.group != group else "", item.name,
                                         "; ".join(results), " | ".join(stops)))
        sys.stdout.flush()
        group = item.group


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if "--markdown" in sys.argv:
        markdown(words[0] if words else "*")
    else:
        print("usage: robustness.py --markdown [PATTERN]", file=sys.stderr)
        sys.exit(2)
