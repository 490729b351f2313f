# SPDX-License-Identifier: MIT
"""The live tests' fixtures: every test that asks for `python` runs on each Python found."""
import os
import shutil
import subprocess
import tempfile

import pytest

from pythons import find_pythons
from passive import QUIET
from tools import BIN_DIR, must, tm_attach
from victim import Victim

PYTHONS = find_pythons()
_passed = 0


def pytest_generate_tests(metafunc):
    if "python" not in metafunc.fixturenames:
        return
    wanted = [p for p in PYTHONS if not p.is_refused]
    marker = metafunc.definition.get_closest_marker("pythons")
    if marker is not None:
        low, high = marker.kwargs.get("low", (0, 0)), marker.kwargs.get("high", (99, 0))
        api = marker.kwargs.get("api", None)
        wanted = [p for p in PYTHONS
                  if low <= p.version[:2] <= high and api in (None, p.has_api)
                  and (marker.kwargs.get("refused", False) == p.is_refused)]
    metafunc.parametrize("python", wanted, ids=[p.name for p in wanted])


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "pythons(low=(3, 6), high=(3, 14), api=True): the versions that a test runs on, and "
        "whether they have PEP 445's API (as 3.3 and 2.7 have only with a patch); refused=True: those "
        "that tm-attach does not take")


def pytest_runtest_logreport(report):
    global _passed
    if report.when == "call" and report.passed:
        _passed += 1


def pytest_sessionfinish(session, exitstatus):
    """A run in which nothing passed has shown nothing."""
    if exitstatus in (0, 5) and _passed == 0 and not session.config.option.collectonly:
        print("\nno test passed: everything was skipped")
        session.exitstatus = 1


@pytest.fixture
def any_python():
    """One Python, for what does not depend on the version: the newest that can be traced."""
    supported = [p for p in PYTHONS if (3, 6) <= p.version[:2] <= (3, 13)]
    if not supported:
        pytest.skip("no CPython 3.6 to 3.13 found")
    return supported[-1]


@pytest.fixture
def start_victim(tmp_path):
    """start_victim(python, "sleeps.py", *args, **options) -> Victim; all are ended with the test."""
    started = []

    def start(python, script, *args, **options):
        victim = Victim(python, script, args, tmp_path / ("victim%d" % len(started)), **options)
        started.append(victim)
        victim.wait_for_ready()
        return victim

    yield start
    for victim in started:
        victim.end()


@pytest.fixture
def traced(start_victim, tmp_path):
    """traced(python, "reads.py", *args, options=(...)): a victim under trace that has allocated and
    is blocked."""
    def start(python, script="reads.py", *args, **more):
        victim = start_victim(python, script, *args)
        victim.prepare(500)
        must(tm_attach(*(QUIET + tuple(more.get("options", ())) + (victim.pid,)), cwd=tmp_path))
        victim.leak(500, 1000)
        victim.wait_until_blocked()
        return victim
    return start


@pytest.fixture
def can_mount():
    """Skips where a private mount namespace with a tmpfs is not to be had."""
    probe = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tm-test", "/mnt"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True)
    if probe.returncode != 0:
        pytest.skip("mount is not permitted: " + probe.stderr.strip())


@pytest.fixture
def as_root():
    if os.getuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def public_tools(as_root):
    """The tools in a folder that every user may enter."""
    folder = tempfile.mkdtemp(prefix="tm-test-")
    for name in ("bin", "lib"):
        shutil.copytree(os.path.join(BIN_DIR, "..", name), os.path.join(folder, name))
    subprocess.check_call(["chmod", "-R", "a+rX", folder])
    yield os.path.join(folder, "bin")
    shutil.rmtree(folder)
