# SPDX-License-Identifier: MIT
"""Faults in the middle of an attach, and what many attaches leave behind."""
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

from robust.bench import (BIN, STEPS, Impossible, beats_on, blocks, case, facts, map_count,
                          may_unshare, need_root, run)
from victim import capture, read_status, wait_until

# At these the borrowed thread has not yet entered the block, and takes it away by itself.
BEFORE_THE_BLOCK = STEPS[:STEPS.index("call")]


def rounds(variable, usual):
    """A few rounds in each run of the tests; by hand as many as the variable says."""
    return int(os.environ.get(variable, usual))


def exits_well(program):
    assert program.wait(60) == 0, program.returncode


def at_every_step(name, what, check, **env):
    @case("in the middle", name)
    def steps(b):
        for step in STEPS:
            check(b, step, what, env)
        return "unharmed"


def signalled(b, step, what, env):
    victim = b.start("blocked.py", "event")
    before = blocks(victim.pid)
    b.inject(victim.pid, TM_DEBUG_STEP="%s:%s" % (step, what), **env)
    victim.assert_advances()
    if step in BEFORE_THE_BLOCK:
        wait_until(lambda: blocks(victim.pid) == before, "the block to go")
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


GOES_ON = """import sys, time
while True:
    sys.stdout.write("beat\\n")
    sys.stdout.flush()
    time.sleep(0.02)
"""
# What may be said of a process that goes away: attached before, no such process, a zombie, ending,
# gone. Never that it is what it only looks like while its memory is taken away.
OF_ONE_THAT_GOES = (0, 10, 11, 55, 58, 65)


def leaves(name, ending, statuses, after):
    @case("in the middle", name, True)
    def at_any_moment(b):
        script = "import os, sys, time\nprint('ready')\nsys.stdout.flush()\ntime.sleep(%f)\n" + ending
        for i in range(rounds("TM_TEST_LEAVES", 12)):
            program = b.native(b.python.path, "-c", script % (0.004 * i))
            result = b.attach("--delay", 0, program.pid)
            assert result.status in statuses and result.err.count("\n") <= 1, result
            after(program)
        return "said so, or attached before"


leaves("the target ends by itself at any moment", "", OF_ONE_THAT_GOES,
       exits_well)
# 16: not Python, which it is not for a moment.
leaves("the target calls exec by itself at any moment",
       "os.execv(sys.executable, [sys.executable, '-c', %r])" % GOES_ON, OF_ONE_THAT_GOES + (16,),
       lambda program: (beats_on(program), program.kill()))


at_every_step("the worker or tm-attach killed at every step", "die", signalled)
at_every_step("both killed at every step", "exit", signalled)
at_every_step("SIGINT to tm-attach at every step", "int", signalled)
at_every_step("SIGTERM to tm-attach at every step", "term", signalled)
at_every_step("the injector stopped at every step", "stop", signalled,
              TM_DEBUG_STOP_MS=os.environ.get("TM_TEST_STOP_MS", "400"))
at_every_step("the target killed at every step", "kill", killed)
at_every_step("the target calls exec at every step", "usr1", execs)


@case("in the middle", "the target ends, and its number is another process' by now")
def number_used_again(b):
    """The other process is not stopped, and nothing is written to it or into its files."""
    need_root()
    namespace = ["--pid", "--fork", "--mount-proc", "--kill-child"]
    may_unshare(*namespace)
    if not os.path.exists("/proc/sys/kernel/ns_last_pid"):
        raise Impossible("this kernel lets nobody choose a PID (no CONFIG_CHECKPOINT_RESTORE)")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reuse.py")
    for step in ("looked", "worked", "memfd", "filled", "ready"):
        done = run(["unshare"] + namespace + [sys.executable, script, b.python.path, step, b.folder])
        assert done.status == 0 and done.out.startswith("58 error=died"), (step, done)
    return "refused, status 58; the other process unharmed"


def resident_kb(pid):
    return int(read_status(pid)["VmRSS"].split()[0])


def wait_for_threads(pid, count):
    wait_until(lambda: len(os.listdir("/proc/%d/task" % pid)) == count, "%d threads" % count)


@case("over time", "cycles of attach and detach leak nothing", True)
def cycles(b):
    """What glibc and the kernel keep after the first one stays; three come first for that."""
    count = rounds("TM_TEST_CYCLES", 8)
    victim = b.start("blocked.py", "event")
    for _ in range(3):
        b.cycle(victim.pid)
    wait_for_threads(victim.pid, 2)
    before, maps, resident = capture(victim.pid), map_count(victim.pid), resident_kb(victim.pid)
    for _ in range(count):
        b.cycle(victim.pid)
    victim.assert_advances()
    wait_for_threads(victim.pid, 2)
    victim.assert_facts(before)
    after = map_count(victim.pid), resident_kb(victim.pid)
    print("%d cycles: %d -> %d mappings, %d -> %d KiB resident, %d descriptors" % (
        count, maps, after[0], resident, after[1], len(before.fds)), file=sys.stderr)
    assert after[0] <= maps + 4 and after[1] <= resident + 2048, (maps, resident, after)
    return "nothing left behind"


@case("over time", "8 threads in malloc, one arena: attached and detached again and again", True)
def churn_for_long(b):
    count = rounds("TM_TEST_CHURNS", 5)
    victim = b.hostile("churn", 1)
    for i in range(count):
        result = b.attach("--delay", 0, "--memory-threshold", 0, "--traceback-limit", 4, victim.pid)
        assert result.status == 0, (i, result)
        result = b.attach("--detach", victim.pid)
        assert result.status == 0, (i, result)
        victim.assert_advances()
    print("churn: %d of %d on %s" % (count, count, b.python.name), file=sys.stderr)
    return "attached and detached each time"


@case("over time", "tm-attach and its worker killed at random")
def killed_at_random(b):
    """Killed anywhere from its start to its end; the next one finds a program as if nothing had been."""
    count, killed, longest = rounds("TM_TEST_KILLS", 20), 0, 0.05
    victim = b.start("blocked.py", "deep-alone")
    rng, before = random.Random(rounds("TM_TEST_SEED", 4)), blocks(victim.pid)
    while killed < count:
        tool = subprocess.Popen([os.path.join(BIN, "tm-attach"), "--delay", "0", str(victim.pid)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=b.folder)
        time.sleep(rng.uniform(0, longest))
        for worker in run(["pgrep", "-P", tool.pid]).out.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker), signal.SIGKILL)
        early = tool.poll() is None
        tool.kill()
        tool.wait()
        # So that about a half of them come to their end.
        longest *= 1.05 if early else 0.9
        killed += early
        victim.assert_advances()
        b.attach("--detach", victim.pid)
    wait_for_threads(victim.pid, 1)
    wait_until(lambda: facts(victim.pid)["SigBlk"] == "0", "the thread to be home", 10)
    wait_until(lambda: blocks(victim.pid) == before, "the blocks to go", 10)
    assert read_status(victim.pid)["TracerPid"] == "0"
    with open("/proc/%d/maps" % victim.pid) as file:
        assert "tm-payload" not in file.read()
    b.cycle(victim.pid)
    victim.assert_advances()
    print("killed %d times on %s" % (killed, b.python.name), file=sys.stderr)
    return "unharmed"


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
