# SPDX-License-Identifier: MIT
"""docs/POSTMORTEM.md: cores of the kernel, of gdb, of systemd; debug information from a server."""
import glob
import os
import signal
import subprocess

import pytest

from coredumpctl import Systemd
from debuginfod import Server, separate
from passive import differences, extract, make_core, whole
from tms import File
from tools import must, snapshot, tm_analyze, tm_attach

WITH_ARGUMENTS = ("reads.py", "an argument", "x" * 200)


@pytest.fixture
def debug_server():
    servers = []

    def start(folder, scratch):
        servers.append(Server(folder, scratch))
        return servers[-1]
    yield start
    for server in servers:
        server.end()


def test_core_of_the_kernel(any_python, traced, tmp_path):
    """A crash that leaves a core by itself."""
    with open("/proc/sys/kernel/core_pattern") as file:
        pattern = file.read().strip()
    if "/" in pattern or "|" in pattern or "%" in pattern.replace("%p", ""):
        pytest.skip("cores go to %s" % pattern)
    victim = traced(any_python, *WITH_ARGUMENTS)
    agent = File(snapshot(victim, tmp_path))
    subprocess.check_call(["prlimit", "--core=unlimited", "--pid", str(victim.pid)])
    os.kill(victim.pid, signal.SIGABRT)
    victim.process.wait(60)
    names = [name for name in os.listdir(victim.folder) if name.startswith("core")]
    assert len(names) == 1, "%s left %s" % (pattern, names)
    core = extract(tmp_path / "core.tms", "--core", os.path.join(victim.folder, names[0]))
    assert differences(agent, core, from_core=True) == []


def test_damaged_cores(any_python, traced, tmp_path):
    """Truncated, foreign, with flipped bits: a snapshot that verifies, or one line and exit 1."""
    victim = traced(any_python, *WITH_ARGUMENTS)
    path = make_core(victim.pid, tmp_path / "core")
    out = tmp_path / "out.tms"

    def refused(name):
        result = tm_analyze("extract", "--core", name, "-o", out)
        assert (result.status, result.err.count("\n")) == (1, 1), (name, result)
        assert not os.path.exists(str(out))
    size = os.path.getsize(path)
    for length in (size // 4 * 3, size // 2, 4096, 100, 1, 0):
        os.truncate(path, length)
        refused(path)
    refused("/bin/true")
    refused("/dev/null")
    refused(tmp_path)
    refused(tmp_path / "missing")
    refused(__file__)


def test_coredumpctl(any_python, traced, can_mount, tmp_path):
    systemd = Systemd()
    victim = traced(any_python, *WITH_ARGUMENTS)
    agent = File(snapshot(victim, tmp_path))
    core = make_core(victim.pid, tmp_path / "core")
    said = systemd.dump(victim.pid, core, tmp_path / "dumped")
    assert os.path.exists(str(tmp_path / "dumped")) and os.path.getsize(
        str(tmp_path / "dumped")) == os.path.getsize(core), said
    dead = extract(tmp_path / "dead.tms", "--core", tmp_path / "dumped")
    assert differences(agent, dead, from_core=True) == []
    # What ProcessSizeMax= of coredump.conf leaves of a core is its beginning.
    os.truncate(str(tmp_path / "dumped"), os.path.getsize(core) // 2)
    cut = tm_analyze("extract", "--core", tmp_path / "dumped", "-o", tmp_path / "cut.tms")
    assert (cut.status, cut.err.count("\n")) == (1, 1) and "truncated" in cut.err, cut
    victim.assert_advances()


def test_tables_by_debuginfod(any_python, start_victim, debug_server, monkeypatch, tmp_path):
    python = any_python
    libraries = glob.glob(os.path.join(os.path.dirname(python.path), "..", "lib",
                                       "libpython%d.%d.so.1.0" % python.version[:2]))
    for name in ("lib", "served", "cache"):
        (tmp_path / name).mkdir()
    stripped = str(tmp_path / "lib" / os.path.basename((libraries or ["none"])[0]))
    build_id = libraries and separate(libraries[0], stripped, str(tmp_path / "served" / "py.debug"))
    if not build_id:
        pytest.skip("this Python has no shared library with debug information")
    server = debug_server(tmp_path / "served", tmp_path)
    server.wait_for(build_id)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    victim = start_victim(python, "stdlib_tracemalloc.py")
    victim.wait_until_blocked()
    monkeypatch.delenv("LD_LIBRARY_PATH")
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    with open("/proc/%d/maps" % victim.pid) as maps:
        assert stripped in maps.read()
    lacking = tm_analyze("extract", "--pid", victim.pid, "-o", tmp_path / "no.tms")
    assert (lacking.status, lacking.err.count("\n")) == (1, 1), lacking
    assert stripped in lacking.err and "DEBUGINFOD_URLS" in lacking.err
    monkeypatch.setenv("DEBUGINFOD_URLS", server.url)
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    live = extract(tmp_path / "live.tms", "--pid", victim.pid)
    core = extract(tmp_path / "core.tms", "--core", make_core(victim.pid, tmp_path / "core"))
    assert len(whole(live)) > 10000 and whole(live) == whole(core)
    assert list((tmp_path / "cache").glob("%s/*" % build_id))
