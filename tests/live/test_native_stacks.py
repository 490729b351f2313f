# SPDX-License-Identifier: MIT
"""Native frames on other stacks than the thread's own: the program lives, whatever is in rbp and
wherever a stack lies; sizes and Python frames are true, and of C frames there are the right ones or
none, which is said."""
import json
import os
import subprocess

import pytest

import tms
from tools import build_library, must, snapshot, tm_attach

NATIVE = 1
CUT = "[native stack cut: "
OTHER = CUT + "not a known stack]"
PYTHONS = pytest.mark.pythons(low=(3, 6), high=(3, 13))


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("stacks"), "stacks_extension.c")


def split(file, node):
    """Native frames and names of Python functions, each the most recent first."""
    native, python = [], []
    for site in file.sites(node):
        if site.kind == NATIVE:
            native.append(site.address or site.function)
        else:
            python.append(site.function.split(".")[-1])
    return native, python


def check_block(file, trace, block, limit):
    _, size, stack, names = block
    native, python = split(file, trace.node)
    assert trace.size == size and python == names[:limit], (block, trace, python)
    if stack == "other":
        assert native == [OTHER], block
    elif stack == "own":
        assert native and all(isinstance(frame, int) for frame in native), (block, native)


def run(python, start_victim, folder, extension, whats, limit=100):
    rounds = os.environ.get("TM_NATIVE_ROUNDS", "3")
    victim = start_victim(python, "native_stacks.py", extension, rounds)
    must(tm_attach("--native=128", "--traceback-limit", limit, "--delay", 0, "--memory-threshold",
                   0, victim.pid, cwd=folder))
    for what in whats:
        victim.command(what)
        answer = victim.read_line()
        if answer == ["no", "place"]:
            print("%s: there is something below the main thread's control block" % what)
            answer = victim.read_line()
        assert answer == ["kept"]
    victim.wait_until_blocked()
    file = tms.File(snapshot(victim, folder))
    file.check()
    with open(os.path.join(victim.folder, "blocks.json")) as blocks_file:
        blocks = json.load(blocks_file)
    must(tm_attach("--detach", victim.pid))
    victim.command(whats[0])  # goes on as before
    assert victim.read_line()[0] in ("kept", "no")
    assert victim.process.poll() is None
    assert blocks
    traces = {trace.address: trace for trace in file.traces}
    for block in blocks:
        check_block(file, traces[block[0]], block, limit)


@PYTHONS
def test_coroutines(python, start_victim, tmp_path, extension):
    """With guard pages, in turn, one from the other; stacks that come to the place of others."""
    run(python, start_victim, tmp_path, extension, ["guarded", "reused"])


@PYTHONS
@pytest.mark.parametrize("what", ["gapless_thread", "same_place", "gapless_main", "wrong"])
def test_rbp_into_a_hole(python, what, start_victim, tmp_path, extension):
    """Functions with a wrong unwind table."""
    run(python, start_victim, tmp_path, extension, [what])


@PYTHONS
def test_signal_handlers(python, start_victim, tmp_path, extension):
    run(python, start_victim, tmp_path, extension, ["signals", "timer"])


@PYTHONS
def test_one_python_frame(python, start_victim, tmp_path, extension):
    """The way of the hooks where nothing else of Python's frames is wanted."""
    run(python, start_victim, tmp_path, extension,
        ["guarded", "signals", "gapless_thread", "wrong"], limit=1)


@PYTHONS
def test_greenlets(python, start_victim, tmp_path, extension):
    probe = subprocess.run([python.path, "-c", "import greenlet"], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    if probe.returncode != 0:
        pytest.skip("no greenlet for this Python")
    run(python, start_victim, tmp_path, extension, ["greenlets"])
