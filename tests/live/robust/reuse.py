# SPDX-License-Identifier: MIT
"""reuse.py PYTHON STEP FOLDER, in a PID namespace of its own: while tm-attach (its mechanism) is
held at STEP, the target ends and another process gets its number. Prints what tm-inject-test said;
fails where that other process has come to any harm."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from robust.bench import BIN, Bench  # noqa: E402
from victim import read_status, switches, wait_until  # noqa: E402

DESCRIPTORS = 40  # more than the target has: whatever number its memfd had, it is the file here
TEXT = b"precious\n"


def start_ticks(pid):
    with open("/proc/%d/stat" % pid) as file:
        return file.read().rsplit(")", 1)[1].split()[19]


def start_with_number(bench, pid, files):
    """The next process of this namespace gets the number after the last one."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(pid - 1))
    victim = bench.start("blocked.py", "event", pass_fds=files)
    assert victim.pid == pid, (victim.pid, pid)
    return victim


def settled_switches(pid):
    """How often the main thread was on a processor, once it rests."""
    seen = [None]

    def rests():
        last, seen[0] = seen[0], switches(pid)[pid]
        return seen[0] == last and read_status(pid)["State"][0] == "S"
    wait_until(rests, "the main thread to rest")
    return seen[0]


def main(python, step, folder):
    bench = Bench(type("Python", (), {"path": python}))
    path = os.path.join(folder, "precious-" + step)
    with open(path, "wb") as file:
        file.write(TEXT)
    files = [os.open(path, os.O_RDWR) for _ in range(DESCRIPTORS)]
    first = bench.start("blocked.py", "event")
    ticks = start_ticks(first.pid)
    tool = subprocess.Popen([os.path.join(BIN, "tm-inject-test"), str(first.pid)],
                            env=dict(os.environ, TM_DEBUG_STEP=step + ":pause"),
                            stdout=subprocess.PIPE)
    wait_until(lambda: read_status(tool.pid)["State"][0] == "T", "the step")
    first.end()
    second = start_with_number(bench, first.pid, files)
    assert start_ticks(second.pid) != ticks
    before = settled_switches(second.pid)
    os.kill(tool.pid, signal.SIGCONT)
    said = tool.communicate()[0].decode().strip()
    second.assert_advances()
    assert switches(second.pid)[second.pid] == before, "its main thread was disturbed"
    assert read_status(second.pid)["TracerPid"] == "0"
    with open(path, "rb") as file:
        assert file.read() == TEXT
    bench.close()
    print("%d %s" % (tool.returncode, said))


if __name__ == "__main__":
    main(*sys.argv[1:])
