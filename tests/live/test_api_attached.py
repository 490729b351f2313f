# SPDX-License-Identifier: MIT
"""The Python module in an attached process: it is there, and leaves without harm."""
import os
import subprocess
import time

import pytest

from tools import BIN_DIR, must, tm_attach

BODIES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "api")
OUR_FOLDER = os.path.join(os.path.abspath(BIN_DIR), "..", "lib", "python")

pytestmark = pytest.mark.pythons(low=(2, 7), high=(3, 13))


class Program:
    def __init__(self, python, body, argument, **environment):
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        env.update(environment, PYTHONDONTWRITEBYTECODE="1")
        self.process = subprocess.Popen(
            [python.path, os.path.join(BODIES, body), argument], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, universal_newlines=True)

    def hear(self):
        return self.process.stdout.readline().strip()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def program():
    started = []

    def start(*args, **environment):
        started.append(Program(*args, **environment))
        assert started[-1].hear() == "ready"
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("keeps", ["unused", "nothing", "module", "snapshot", "class", "task",
                                   "function", "core"])
def test_comes_and_goes(python, program, tmp_path, keeps):
    victim = program(python, "attached.py", keeps)
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


REFUSED = "an attached process does not run pytracemalloc: run tm-analyze instead"


@pytest.mark.parametrize("body, told", [
    ("our_folder", "True True False"), ("unrelated", "1 True False"), ("as_program", REFUSED)])
def test_a_module_of_the_programs_own(python, program, tmp_path, body, told):
    """One tracer, one state; a stranger's module stays what it is; no process is replaced."""
    (tmp_path / "pytracemalloc.py").write_text("theirs = 1\n")
    folders = {"our_folder": OUR_FOLDER, "unrelated": str(tmp_path), "as_program": ""}
    victim = program(python, "beside.py", body, PYTHONPATH=folders[body])
    must(tm_attach(victim.process.pid, cwd=tmp_path))
    victim.go_on()
    assert victim.hear() == told
    result = tm_attach("--detach", victim.process.pid, cwd=tmp_path)
    assert result.status == 0, result
    victim.go_on()
    untouched = "True" if body == "unrelated" else "False"
    assert victim.hear() == untouched + " [] False {}"
    assert victim.hear() == "True True %s 0" % (body == "our_folder")
    victim.go_on()
    assert victim.process.wait(30) == 0


@pytest.mark.parametrize("imported", ["pytracemalloc", "collections"])
def test_attach_meets_an_agent_that_leaves(python, program, tmp_path, imported):
    """Its options are set, or it is followed by another; in the program's own extension, too."""
    victim = program(python, "imported.py", imported, PYTHONPATH=OUR_FOLDER).process
    for i in range(12):
        must(tm_attach("--delay", 0.01, "--memory-threshold", 0, "--max-snapshots", 1,
                       "--output", "$counter.tms", victim.pid, cwd=tmp_path))
        time.sleep(0.002 * i)
        must(tm_attach("--delay", 0, "--memory-threshold", 0, "--max-snapshots", 0, victim.pid,
                       cwd=tmp_path))
        assert tm_attach("--detach", victim.pid, cwd=tmp_path).status in (0, 27, 58)
    assert victim.communicate(timeout=30)[0] == "well\n" and victim.returncode == 0
