# SPDX-License-Identifier: MIT
"""A user without any right traces a program of their own: no file of the kernel that asks for a
capability is needed on the way."""
import os
import re
import shutil
import subprocess
import tempfile

import pytest

from conftest import PYTHONS
from tools import AS_NOBODY, NOBODY, must, run_as_nobody

PROGRAM = """
import sys
keep = [None] * 2000
print("ready", flush=True)
for line in sys.stdin:
    for i in range(2000):
        keep[i] = bytes(1000)
    print("leaked", flush=True)
"""
LEAK_LINE = 7


@pytest.fixture
def system_python():
    """One that every user may run."""
    found = [p for p in PYTHONS if p.path.startswith("/usr/bin/")
             and (3, 6) <= p.version[:2] <= (3, 13)]
    if not found:
        pytest.skip("no CPython 3.6 to 3.13 in /usr/bin")
    return found[-1]


@pytest.fixture
def program(system_python, as_root):
    process = subprocess.Popen(AS_NOBODY + [system_python.path, "-c", PROGRAM], cwd="/tmp",
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.fixture
def own_folder(as_root):
    """A folder of that user's; tmp_path is for its owner only."""
    folder = tempfile.mkdtemp(prefix="tm-test-")
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def yama_scope():
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


@pytest.mark.skipif(yama_scope() != 0, reason="Yama lets only ancestors trace")
def test_own_program(program, public_tools, own_folder):
    def run(name, *args):
        return must(run_as_nobody(public_tools, name, *args, cwd=own_folder)).out.strip()

    run("tm-attach", program.pid)
    first = run("tm-attach", "--snapshot", program.pid)
    program.stdin.write(b"leak\n")
    program.stdin.flush()
    assert program.stdout.readline() == b"leaked\n"
    second = run("tm-attach", "--snapshot", program.pid)
    assert re.search(r"^#1: <string>:%d: .*count=2000 \(\+2000\)" % LEAK_LINE,
                     run("tm-analyze", "diff", first, second), re.M)
    assert "2 written, 0 failed" in run("tm-attach", "--status", program.pid)
    run("tm-attach", "--detach", program.pid)
    with open("/proc/%d/maps" % program.pid) as file:
        assert "tm-payload" not in file.read()
    assert program.poll() is None
