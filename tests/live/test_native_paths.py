# SPDX-License-Identifier: MIT
"""Native stacks that come again and again and in turn are told apart, whatever the hooks remember
of the ones before: each block has the calls that led to it."""
import json
import os
import re
import subprocess

import pytest

import tms
from tools import build_library, must, snapshot, tm_attach

NATIVE = 1


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("paths"), "paths_extension.c")


def functions(extension):
    """(first address, behind the last, digit) of the functions that are steps, in the file."""
    text = subprocess.run(["nm", "-S", str(extension)], stdout=subprocess.PIPE, check=True,
                          universal_newlines=True).stdout
    found = re.findall(r"^(\w+) (\w+) . tm_paths_(\d)$", text, re.M)
    assert len(found) == 5
    return [(int(at, 16), int(at, 16) + int(size, 16), digit) for at, size, digit in found]


def calls(file, node, steps, extension):
    """The steps and the Python functions, most recent first."""
    result = []
    for site in file.sites(node):
        if site.kind != NATIVE:
            result.append(site.function.split(".")[-1])
        elif site.address:
            module = site.module
            at = site.address - 1 - module.bias
            if module.path == str(extension):
                result += [digit for low, high, digit in steps if low <= at < high]
        else:
            result.append(site.function)  # a cut
    return result


def expected(path, name, limit):
    """The same by the path."""
    names = {"p": "again_p", "q": "again_q"}
    result = [names.get(step, step) for step in reversed(path)] + [name, "<module>"]
    python = [i for i, step in enumerate(result) if len(step) > 1]
    return result[:python[limit - 1] + 1] if limit <= len(python) else result


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_each_block_has_its_calls(python, limit, start_victim, tmp_path, extension):
    count = os.environ.get("TM_NATIVE_BLOCKS", "20000")
    victim = start_victim(python, "native_paths.py", extension, count)
    must(tm_attach("--native=128", "--traceback-limit", limit, "--delay", 0, "--memory-threshold",
                   0, victim.pid, cwd=tmp_path))
    victim.command("go")
    victim.expect("kept")
    victim.wait_until_blocked()
    file = tms.File(snapshot(victim, tmp_path))
    file.check()
    steps = functions(extension)
    traces = {trace.address: trace for trace in file.traces}
    with open(os.path.join(victim.folder, "blocks.json")) as blocks_file:
        blocks = json.load(blocks_file)
    known = {}
    for address, size, path, name in blocks:
        trace = traces[address]
        assert trace.size == size
        if trace.node not in known:
            known[trace.node] = calls(file, trace.node, steps, extension)
        assert known[trace.node] == expected(path, name, limit), path
    assert len(blocks) == int(count)
