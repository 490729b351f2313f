# SPDX-License-Identifier: MIT
"""The way in, with a payload that does nothing (tm-inject-test): each victim is met where it
blocks or what it does, and must go on unharmed."""
import os
import random
import signal
import subprocess
import time

import pytest

from tools import BIN_DIR
from victim import capture, read_status, wait_until

INJECT = os.path.join(os.path.abspath(BIN_DIR), "tm-inject-test")
CHURN = os.path.join(os.path.abspath(BIN_DIR), "tm-victim-churn")
REGISTERS = os.path.join(os.path.abspath(BIN_DIR), "tm-victim-registers")

BLOCKED = ("sleep select poll epoll event timed-event join accept pipe waitpid sigwait deep-alone "
           "signals-alone thread-storm fork-storm hash").split()
WORKER_STEPS = ("seized stopped saved frame regs mask mmap-entry mmap written call parked "
                "created home restored detached").split()
PARENT_STEPS = "looked worked memfd filled ready running".split()


def inject(pid, *args, **env):
    """The words of tm-inject-test's line as a dict, with its status."""
    done = subprocess.run([INJECT, str(pid)] + list(args), env=dict(os.environ, **env),
                          stdout=subprocess.PIPE, timeout=120)
    head, _, message = done.stdout.decode().partition(" message=")
    words = dict(word.split("=", 1) for word in head.split())
    words.update(status=done.returncode, message=message.strip())
    return words


def must_inject(pid, *args):
    words = inject(pid, *args)
    assert words["status"] == 0, words
    return words


def signals(pid):
    status = read_status(pid)
    return status["SigBlk"], status["SigIgn"], status["TracerPid"]


def threads(pid):
    return len(os.listdir("/proc/%d/task" % pid))


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
@pytest.mark.parametrize("kind", BLOCKED)
def test_goes_in_and_out_wherever_the_main_thread_is(start_victim, python, kind):
    victim = start_victim(python, "blocked.py", kind)
    wait_until(lambda: signals(victim.pid)[0] == "0" * 16, "no signal to be blocked", 10)
    before = signals(victim.pid)
    for _ in range(3):
        must_inject(victim.pid, "--search-ms", "10000")
        victim.assert_advances()
    # libc blocks signals for a moment whenever it makes a thread or forks.
    wait_until(lambda: signals(victim.pid) == before, "the signal masks to be what they were", 10)


def test_every_cycle_leaves_what_it_found(start_victim, any_python):
    """What glibc keeps after the first thread ended (a stack, an arena) is kept once."""
    victim = start_victim(any_python, "blocked.py", "event")
    must_inject(victim.pid)
    wait_until(lambda: threads(victim.pid) == 2, "the thread to end")
    before = capture(victim.pid)
    maps_before = open("/proc/%d/maps" % victim.pid).read().count("\n")
    for _ in range(50):
        must_inject(victim.pid)
    victim.assert_advances()
    wait_until(lambda: threads(victim.pid) == 2, "the thread to end")
    victim.assert_facts(before)
    maps_after = open("/proc/%d/maps" % victim.pid).read().count("\n")
    assert maps_after <= maps_before + 4


@pytest.mark.parametrize("what", ["die", "exit"])
@pytest.mark.parametrize("step", WORKER_STEPS + PARENT_STEPS)
@pytest.mark.parametrize("kind", ["event", "deep-alone"])
def test_injector_dies_at_a_step(start_victim, any_python, kind, step, what):
    victim = start_victim(any_python, "blocked.py", kind)
    assert inject(victim.pid, TM_DEBUG_STEP=step + ":" + what)["status"] != 0
    victim.assert_advances()
    assert read_status(victim.pid)["TracerPid"] == "0"
    # Parked, a thread waits a moment for a worker that is late; then it goes home by itself.
    wait_until(lambda: read_status(victim.pid)["SigBlk"] == "0" * 16, "the thread to be home", 10)
    again = inject(victim.pid)
    # Told that the payload was there, the thread has started it although nobody was left to see.
    assert again["status"] == 0 or (again["error"] == "already-attached" and
                                    step in ("ready", "running")), again
    victim.assert_advances()


@pytest.mark.parametrize("step", WORKER_STEPS + PARENT_STEPS)
def test_target_is_killed_at_a_step(start_victim, any_python, step):
    victim = start_victim(any_python, "blocked.py", "event")
    words = inject(victim.pid, "--boot-ms", "2000", TM_DEBUG_STEP=step + ":kill")
    assert words["status"] != 0, words
    assert victim.process.wait(10) == -signal.SIGKILL


def test_injector_dies_at_random(start_victim, any_python):
    victim = start_victim(any_python, "blocked.py", "deep-alone")
    rng = random.Random(5)
    for _ in range(60):
        running = subprocess.Popen([INJECT, str(victim.pid)], stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.0, 0.04))
        workers = subprocess.run(["pgrep", "-P", str(running.pid)], stdout=subprocess.PIPE)
        for pid in workers.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        running.kill()
        running.wait()
        victim.assert_advances()
    assert read_status(victim.pid)["SigBlk"] == "0" * 16


def test_two_at_once(start_victim, any_python):
    victim = start_victim(any_python, "blocked.py", "event")
    for _ in range(5):
        both = [subprocess.Popen([INJECT, str(victim.pid)], stdout=subprocess.PIPE)
                for _ in range(2)]
        said = [process.communicate()[0].decode() for process in both]
        assert any(process.returncode == 0 for process in both), said
        for process, words in zip(both, said):
            assert process.returncode == 0 or "busy" in words or "already" in words, said
        victim.assert_advances()


def test_stopped_target_stays_stopped(start_victim, any_python):
    victim = start_victim(any_python, "blocked.py", "event")
    os.kill(victim.pid, signal.SIGSTOP)
    wait_until(lambda: read_status(victim.pid)["State"][0] == "T", "the stop")
    words = inject(victim.pid, "--boot-ms", "500")
    assert words.get("error") == "stopped", words
    assert read_status(victim.pid)["State"][0] == "T"
    os.kill(victim.pid, signal.SIGCONT)
    victim.assert_advances()
    wait_until(lambda: threads(victim.pid) == 2, "the late thread to end")
    must_inject(victim.pid)


def test_no_signal_is_lost(tmp_path):
    """The new thread blocks them all, so that they go to the program's own threads."""
    churn = subprocess.Popen([CHURN, "2", "8", "1"], stdout=subprocess.PIPE)
    assert churn.stdout.readline() == b"ready\n"
    try:
        for _ in range(10):
            must_inject(churn.pid, "--any", "--search-ms", "10000")
            assert churn.stdout.readline().startswith(b"beat")
    finally:
        churn.kill()


@pytest.mark.parametrize("arenas", ["1", "8"])
def test_threads_that_only_allocate(arenas):
    churn = subprocess.Popen([CHURN, "8", arenas], stdout=subprocess.PIPE)
    assert churn.stdout.readline() == b"ready\n"
    try:
        for _ in range(20):
            must_inject(churn.pid, "--any", "--search-ms", "10000")
            churn.stdout.readline()
        assert churn.poll() is None
    finally:
        churn.kill()


def test_registers_and_red_zone_are_kept():
    """The victim checks its AVX registers and its red zone all the time and ends on a difference."""
    victim = subprocess.Popen([REGISTERS], stdout=subprocess.PIPE)
    assert victim.stdout.readline() == b"ready\n"
    try:
        for _ in range(50):
            must_inject(victim.pid, "--any", "--search-ms", "10000")
            assert victim.poll() is None
        for _ in range(20):
            step = random.choice(WORKER_STEPS)
            inject(victim.pid, "--any", TM_DEBUG_STEP=step + ":die")
            time.sleep(0.01)
            assert victim.poll() is None, step
    finally:
        victim.kill()
