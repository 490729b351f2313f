# SPDX-License-Identifier: MIT
"""What the tests of the passive reader share: comparing snapshots, cores, a process' memory."""
import os
import subprocess

import pytest

from tms import File
from tools import must, tm_analyze

GDB_SECONDS = 120


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
    """Every trace of a snapshot with its traceback spelled out. Blocks without a frame are left
    out: the agent's own thread state is one while it takes a snapshot."""
    result = []
    for trace in file.traces:
        frames = tuple(file.frames(trace.node))
        if frames:
            result.append((trace.address, trace.size, trace.domain, trace.age, frames))
    return sorted(result)


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
