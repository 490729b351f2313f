# SPDX-License-Identifier: MIT
"""What the tests of the passive reader share: comparing snapshots, cores, a process' memory."""
import os
import subprocess

import pytest

from tms import File
from tools import must, tm_analyze

GDB_SECONDS = 120
TM_GDB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "gdb",
                      "tm.py")
# Snapshots by request only.
QUIET = ("--delay", 0, "--memory-threshold", 0, "--traceback-limit", 10)


def gdb(*words, **options):
    """Runs Debian's gdb without anybody's settings; its output, both streams in one."""
    command = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off",
               "-iex", "set auto-load off"]
    try:
        done = subprocess.run(command + [str(word) for word in words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=GDB_SECONDS, cwd=options.get("cwd"))
    except FileNotFoundError:
        pytest.skip("gdb is not installed")
    return done.stdout.decode(errors="replace")


def make_core(pid, path):
    out = gdb("-p", pid, "-ex", "generate-core-file %s" % path)
    assert os.path.exists(str(path)), out
    return str(path)


def extract(path, *args):
    must(tm_analyze("extract", "-o", path, *args))
    must(tm_analyze("verify", path))
    return File(path)


def whole(file):
    """Every trace of a snapshot with its traceback spelled out, native frames too. Blocks without a
    frame are left out: the agent's own thread state is one while it takes a snapshot."""
    result = []
    for trace in file.traces:
        frames = tuple(repr(site) for site in file.sites(trace.node))
        if frames:
            result.append((trace.address, trace.size, trace.domain, trace.age, frames))
    return sorted(result)


# What a reader outside cannot know, or what is of the reading and not of the process.
OF_THE_READING = {"reason", "torn", "counter", "pause_ns", "measured_ns"}
NOT_IN_A_CORE = {"start_time_ns"}


def differences(agent, passive, from_core=False):
    """What a passive snapshot has else than the agent's of the same moment, section by section, but
    for what it cannot have."""
    result = []
    facts = (set(agent.facts) | set(passive.facts)) - OF_THE_READING
    if from_core:
        facts -= NOT_IN_A_CORE
    for key in sorted(facts):
        mine, theirs = agent.facts.get(key), passive.facts.get(key)
        # The kernel counts ticks, both readers add the clock of their moment.
        if key == "start_time_ns" and abs(int(mine) - int(theirs)) < 50 * 10 ** 6:
            continue
        if mine != theirs:
            result.append(("fact", key, mine, theirs))
    for key in sorted(set(agent.metrics) | set(passive.metrics)):
        if key.startswith("process_memory."):
            if from_core or passive.metrics.get(key, 0) > 0:
                continue
        if agent.metrics.get(key) != passive.metrics.get(key):
            result.append(("metric", key, agent.metrics.get(key), passive.metrics.get(key)))

    def stats(file):
        return {file.site(site) if site != 0xffffffff else None: stat
                for site, stat in file.stats.items()}
    if stats(agent) != stats(passive):
        result.append(("stats", stats(agent), stats(passive)))
    if agent.modules != passive.modules:
        result.append(("modules", agent.modules, passive.modules))
    if agent.kinds != passive.kinds:
        result.append(("sections", agent.kinds, passive.kinds))
    if whole(agent) != whole(passive):
        result.append(("traces", set(whole(agent)) ^ set(whole(passive))))
    return result


def writable_memory(pid):
    """The bytes of all writable mappings."""
    result = {}
    with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb", 0) as mem:
        for line in maps:
            where, perms = line.split()[:2]
            if "w" not in perms or "[v" in line:
                continue
            start, end = (int(part, 16) for part in where.split("-"))
            mem.seek(start)
            pieces = []
            while start < end:
                piece = mem.read(min(end - start, 1 << 20))
                pieces.append(hash(piece))
                start += len(piece)
            result[where] = pieces
    return result
