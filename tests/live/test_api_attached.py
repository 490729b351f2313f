# SPDX-License-Identifier: MIT
"""The Python module in an attached process: it is there, and leaves without harm."""
import os
import subprocess

import pytest

from tools import must, tm_attach

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "api", "attached.py")

pytestmark = pytest.mark.pythons(low=(2, 7), high=(3, 13))


class Program:
    def __init__(self, python, keeps):
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen([python.path, PROGRAM, keeps], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                                        universal_newlines=True)

    def hear(self):
        return self.process.stdout.readline().strip()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def program():
    started = []

    def start(python, keeps):
        started.append(Program(python, keeps))
        assert started[-1].hear() == "ready"
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("keeps", ["unused", "nothing", "module", "snapshot", "class", "task",
                                   "function", "core"])
def test_comes_and_goes(python, program, tmp_path, keeps):
    victim = program(python, keeps)
    must(tm_attach(victim.process.pid, cwd=tmp_path))
    victim.go_on()
    assert victim.hear() == "True True"
    assert victim.hear() == "[1]"
    result = tm_attach("--detach", victim.process.pid, cwd=tmp_path)
    assert result.status == 0, result
    victim.go_on()
    unmapped = keeps in ("unused", "nothing")
    assert victim.hear() == "%s [] True 1" % unmapped, result
    if keeps == "module":
        assert victim.hear() == "tm is detached from this process"
    assert victim.hear() == "gone"
    victim.go_on()
    assert victim.process.wait(30) == 0
