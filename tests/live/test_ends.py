# SPDX-License-Identifier: MIT
"""A process that ends while its agent writes a snapshot ends as it would, and leaves whole files or
none. TM_END_ROUNDS: how often for each."""
import os
import re
import subprocess

import pytest

from tools import BIN_DIR, must, tm_analyze, tm_attach
from victim import VICTIMS, wait_until

ROUNDS = int(os.environ.get("TM_END_ROUNDS", "1"))
ENDS = {"exit": 0, "_exit": 0, "exec": 0, "kill": -9, "fork": 0}


class Program:
    def __init__(self, python, how):
        self.process = subprocess.Popen(
            [python.path, os.path.join(VICTIMS, "many.py"), how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True)
        self.pid = self.process.pid

    def expect(self, word):
        assert self.process.stdout.readline().strip() == word

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def is_writing(self, folder):
        """A file in the folder is open that has no name of its own yet."""
        for name in os.listdir("/proc/%d/fd" % self.pid):
            try:
                target = os.readlink("/proc/%d/fd/%s" % (self.pid, name))
            except OSError:
                continue
            if target.startswith(str(folder) + "/") and not target.endswith(".tms"):
                return True
        return False


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
@pytest.mark.parametrize("how", sorted(ENDS))
def test_no_half_file(python, tmp_path, how):
    if "TM_END_ROUNDS" not in os.environ and not (
            python.free_threaded or python.version[:2] in [(3, 8), (3, 11), (3, 13)]):
        pytest.skip("TM_END_ROUNDS is not set")
    caught = 0
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        program = Program(python, how)
        program.expect("ready")
        must(tm_attach("--memory-threshold", 0, "--output", "x-$counter.tms", program.pid,
                       cwd=folder))
        program.go_on()
        program.expect("full")
        tool = subprocess.Popen([os.path.join(os.path.abspath(BIN_DIR), "tm-attach"), "--snapshot",
                                 str(program.pid)], cwd=str(folder),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_until(lambda: program.is_writing(folder) or tool.poll() is not None, "the snapshot")
        caught += tool.poll() is None
        program.go_on()
        assert program.process.wait(60) == ENDS[how]
        said = tool.communicate(timeout=60)[0].decode()
        assert "Traceback" not in said and said.count("\n") == 1, said
        names = os.listdir(str(folder))
        assert all(name.startswith("x-") and name.endswith(".tms") for name in names), names
        if tool.returncode == 0:
            assert os.path.basename(said.strip()) in names, (said, names)
        for name in names:
            must(tm_analyze("summary", folder / name))
    print("%d of %d caught while the agent wrote" % (caught, ROUNDS))


@pytest.mark.pythons(low=(2, 7), high=(3, 13))
def test_an_interpreter_that_ends_and_begins_anew(python, tmp_path):
    """The thread state and the objects that the agent had in the first one are no more."""
    libraries = re.findall(r"=> (\S*libpython\S*) ", subprocess.run(
        ["ldd", os.path.realpath(python.path)], stdout=subprocess.PIPE,
        universal_newlines=True).stdout)
    if not libraries:
        pytest.skip("this Python is static")
    prefix = subprocess.run([python.path, "-c", "import sys; print(sys.base_prefix)"
                             if python.version >= (3, 3) else "import sys; print(sys.prefix)"],
                            stdout=subprocess.PIPE, universal_newlines=True).stdout.strip()
    program = subprocess.Popen(
        [os.path.join(BIN_DIR, "tm-victim-embeds"), libraries[0], prefix, "again"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True)
    for _ in range(3):
        assert program.stdout.readline() == "ready\n"
        must(tm_attach("--delay", 0, "--memory-threshold", 0, program.pid, cwd=tmp_path))
        for _ in range(2):
            program.stdin.write("x")
            program.stdin.flush()
            assert program.stdout.readline() == "ready\n"
        must(tm_attach("--detach", program.pid))
        program.stdin.write("x")
        program.stdin.flush()
    out, _ = program.communicate(timeout=60)
    assert out == "ready\nwell\n" and program.returncode == 0
