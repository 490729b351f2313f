# SPDX-License-Identifier: MIT
"""Snapshots from text, and tm-analyze run on them."""
import os
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "live"))

ANALYZE = os.environ.get("TM_ANALYZE", "tm-analyze")
MKSNAPSHOT = os.environ.get("TM_MKSNAPSHOT", "mksnapshot")


def need(*programs):
    """The first of them that is there. scripts/test, which installs all, forbids to skip."""
    for program in programs:
        path = shutil.which(program)
        if path is None and os.path.isfile(program):
            path = program
        if path is not None:
            return path
    if os.environ.get("TM_READERS") == "required":
        pytest.fail("%s is not installed" % programs[0])
    pytest.skip("%s is not installed" % programs[0])


class Result:
    """What a run of tm-analyze gave."""

    def __init__(self, process):
        self.status = process.returncode
        self.out = process.stdout.decode("utf-8", "surrogateescape")
        self.err = process.stderr.decode("utf-8", "surrogateescape")
        self.raw = process.stdout

    def lines(self):
        return self.out.splitlines()


class Workshop:
    """A folder with snapshots in it."""

    def __init__(self, path):
        self.path = path

    def make(self, name, text):
        """Writes the snapshot that the text describes (tests/tools/mksnapshot.c)."""
        subprocess.run([MKSNAPSHOT, "spec", name], input=text.encode("utf-8", "surrogateescape"),
                       cwd=self.path, check=True)
        return name

    def generate(self, name, *numbers):
        subprocess.run([MKSNAPSHOT, "generate", name] + [str(n) for n in numbers],
                       cwd=self.path, check=True)
        return name

    def run(self, *args, **env):
        """Runs tm-analyze in the folder; every number it may print is the same everywhere."""
        environment = dict(os.environ, TZ="UTC", LC_ALL="C.UTF-8")
        environment.pop("NO_COLOR", None)
        environment.update(env)
        return Result(subprocess.run([ANALYZE] + [str(a) for a in args], cwd=self.path,
                                     env=environment, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120))

    def ok(self, *args, **env):
        """The same where it must succeed; gives its output."""
        result = self.run(*args, **env)
        assert result.status == 0, result.err
        return result.out

    def write(self, name, data):
        with open(os.path.join(self.path, name), "wb") as file:
            file.write(data)
        return name

    def read(self, name):
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()


@pytest.fixture
def shop(tmp_path):
    return Workshop(str(tmp_path))


OLD = """
time 1380800079000000000
fact pid 123
fact traceback_limit 16
metric gc.objects int 100
metric gone size 999999
metric share percent 0.192
trace 0x1000 6000 2 0 dict 1 /a/b/c/lib/x.py:10:f;/a/main.py:5:main
trace 0x3000 100 2 0 - 1 /a/b/c/lib/x.py:10:f;/a/main.py:6:main
trace 0x3100 100 0 0 - 0 y.py:3:
trace 0x3200 100 1 0 list 0 -
"""

NEW = """
time 1380800139000000000
fact pid 123
fact traceback_limit 16
metric gc.objects int 120
metric rss size 10000000
metric share percent 0.25
trace 0x1000 6000 2 0 dict 1 /a/b/c/lib/x.py:10:f;/a/main.py:5:main
trace 0x5000 60000 2 1 dict 1 /a/b/c/lib/x.py:10:f;/a/main.py:5:main
trace 0x3200 100 1 0 list 0 -
trace 0x83200 9000000 1 0 list 0 leak.py:3:leak;/a/b/c/lib/x.py:10:f;/a/main.py:5:main
"""


@pytest.fixture
def pair(shop):
    shop.make("old.tms", OLD)
    shop.make("new.tms", NEW)
    return shop
