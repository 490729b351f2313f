# SPDX-License-Identifier: MIT
"""Where the threads of a live target may be, and what they may be doing."""
import os
import signal
import subprocess
import sys
import threading

from pythons import find_pythons
from robust.bench import (BIN, DEEP, HELPER, Impossible, beats_on, blocks, case, count_of,
                          map_count, system_call)
from victim import read_status, wait_until


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
case("blocked in", DEEP, True)(
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


def met_in_calls(b, kinds, wake=b"", beats=2):
    """Called straight, so that nothing between the program and the kernel tries again."""
    for kind in kinds.split():
        victim = b.native(os.path.join(BIN, "tm-victim-calls"), kind)
        for _ in range(b.attaches):
            b.must_inject(victim.pid, "--any")
        victim.stdin.write(wake)
        victim.stdin.flush()
        beats_on(victim, beats)
        os.kill(victim.pid, signal.SIGKILL)
    return "attached"


case("blocked in", "calls with a time-out: none cut short, none longer")(
    lambda b: met_in_calls(b, "nanosleep clock-nanosleep poll ppoll select sem-timedwait"))
case("blocked in", "epoll_wait, sigtimedwait, semop without a time-out: no EINTR")(
    lambda b: met_in_calls(b, "epoll-wait sigtimedwait semop", b"\n", 1))


SLEEPER = """
import signal, sys, time
def woken(*args):
    sys.stdout.write("beat\\n")
    sys.stdout.flush()
signal.signal(signal.SIGUSR1, woken)
sys.stdout.write("ready\\n")
sys.stdout.flush()
while True:
    try:
        time.sleep(100000)
    except IOError:
        pass
"""


@case("blocked in", "sleep, with no GIL made yet (no thread ever started, up to 3.6)")
def no_gil_yet(b):
    """Afterwards the main thread still is the one that handles signals."""
    pythons = [p for p in find_pythons() if p.version[:2] < (3, 7)]
    if not pythons:
        raise Impossible("no Python before 3.7 is installed")
    for b.python in pythons:
        sleeper = b.native(b.python.path, "-c", SLEEPER)
        for _ in range(2):
            b.cycle(sleeper.pid)
            os.kill(sleeper.pid, signal.SIGUSR1)
            beats_on(sleeper, 1)
        with open("/proc/%d/maps" % sleeper.pid) as file:
            assert "tm-payload" not in file.read()
    return "attached"


IN_C = """
import faulthandler, fcntl, os, sys, time
ends = os.pipe()
fcntl.fcntl(ends[1], fcntl.F_SETFL, os.O_NONBLOCK)
try:
    while True:
        os.write(ends[1], b"x")
except OSError:
    pass
fcntl.fcntl(ends[1], fcntl.F_SETFL, 0)
sys.stdout.write("ready %d\\n" % ends[0])
sys.stdout.flush()
faulthandler.dump_traceback(os.fdopen(ends[1], "wb", 0))
while True:
    sys.stdout.write("beat\\n")
    sys.stdout.flush()
    time.sleep(0.05)
"""


@case("busy", "in C, with no GIL made yet, for longer than tm-attach waits (up to 3.6)")
def no_gil_and_no_python(b):
    """faulthandler writes to a full pipe as if there were a GIL to hold. The pending call stays until
    Python is executed again; then the thread and the payload go."""
    pythons = [p for p in find_pythons() if (3, 3) <= p.version[:2] < (3, 7)]
    if not pythons:
        raise Impossible("no Python from 3.3 to 3.6 is installed")
    payload = os.path.join(os.path.dirname(HELPER), "libtm-payload.so")
    for b.python in pythons:
        program = subprocess.Popen([b.python.path, "-c", IN_C], stdout=subprocess.PIPE)
        b.undo.append(program.kill)
        pipe = int(program.stdout.readline().split()[1])
        wait_until(lambda: system_call(program.pid) == "1", "the write to block")
        words = b.inject(program.pid, "--payload", payload, "--gil-ms", "300")
        assert words["status"] == 56, words
        assert len(os.listdir("/proc/%d/task" % program.pid)) == 2
        with open("/proc/%d/fd/%d" % (program.pid, pipe), "rb", 0) as file:
            file.read(65536)
            beats_on(program)
        wait_until(lambda: len(os.listdir("/proc/%d/task" % program.pid)) == 1, "the agent's end")
        with open("/proc/%d/maps" % program.pid) as file:
            assert "tm-payload" not in file.read()
        b.cycle(program.pid)
        beats_on(program)
    return "refused, status 56; attached afterwards"


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


@case("states", "the main thread has ended, others live on", True)
def leader_gone(b):
    victim = b.hostile("leader-gone")
    wait_until(lambda: read_status(victim.pid)["State"][0] == "Z", "the main thread's end")

    def beats_again():
        before = victim.beats()[0]
        wait_until(lambda: victim.beats()[0] > before, "the other thread's heart")
    if not hasattr(os, "pidfd_open"):
        raise Impossible("cannot tell whether this kernel has PIDFD_THREAD")
    try:
        os.close(os.pidfd_open(max(int(tid) for tid in os.listdir("/proc/%d/task" % victim.pid)),
                               os.O_EXCL))
    except OSError:
        return b.refused(victim.pid, 15, "main thread", "6.9")
    for _ in range(b.attaches):
        b.must_inject(victim.pid)
        beats_again()
    b.cycle(victim.pid)
    beats_again()
    return "attached"


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
            b.in_and_out(victim, b.attaches // 3)
        return "attached"


preloaded("jemalloc", "libjemalloc.so.2")
preloaded("tcmalloc", "libtcmalloc_minimal.so.4")
preloaded("mimalloc", "libmimalloc.so.2*")


@case("allocators", "stepping out of malloc: 8 threads that only allocate, one arena")
def step_out(b):
    """The program ends where a block is not what it was. The worker dies on the way there, and when
    the address is replaced: the thread that it was replaced for still comes to no harm."""
    victim = b.native(os.path.join(BIN, "tm-victim-churn"), "8", "1")
    for i in range(int(os.environ.get("TM_TEST_STEP_OUTS", "12"))):
        b.must_inject(victim.pid, "--any", "--step-out")
        if i % 3 == 0:
            step = ("frame", "mmap", "written", "hooked")[i // 3 % 4]
            b.inject(victim.pid, "--any", "--step-out", TM_DEBUG_STEP=step + ":die")
    beats_on(victim)
    wait_until(lambda: len(os.listdir("/proc/%d/task" % victim.pid)) == 9, "the late threads' end")
    with open("/proc/%d/maps" % victim.pid) as file:
        assert "tm-payload" not in file.read()
    wait_until(lambda: blocks(victim.pid) == [], "the blocks to go")
    beats_on(victim)
    return "attached"


@case("allocators", "stepping out of a malloc that never returns")
def step_out_in_vain(b):
    preload = os.path.join(os.path.dirname(HELPER), "libtm-victim-slow-malloc.so")
    victim = b.native(os.path.join(BIN, "tm-victim-calls"), "malloc",
                      env=dict(os.environ, LD_PRELOAD=preload))
    before = map_count(victim.pid)
    words = b.inject(victim.pid, "--any", "--search-ms", "50")
    assert words["status"] == 50 and "allocator" in words["message"], words
    assert map_count(victim.pid) == before
    victim.stdin.write(b"\n")
    victim.stdin.flush()
    beats_on(victim, 1)
    return "refused, status 50"


@case("registers", "AVX state and red zone")
def registers(b):
    victim = b.native(os.path.join(BIN, "tm-victim-registers"))
    for _ in range(50):
        b.must_inject(victim.pid, "--any")
        assert victim.poll() is None
    return "attached"
