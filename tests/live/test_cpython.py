# SPDX-License-Identifier: MIT
"""CPython's own tests under full tracing with 16 frames: same verdicts as without. A few quick
modules here; TM_CPYTHON_TESTS=all runs tests/cpython/compare.py on all that it knows, or the
modules that it names."""
import os
import subprocess
import sys

import pytest

from tools import BIN_DIR

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cpython", "compare.py")
QUICK = ["test_dict", "test_generators", "test_fork1"]
WANTED = os.environ.get("TM_CPYTHON_TESTS", "")


@pytest.mark.pythons(low=(3, 8), high=(3, 13))
def test_same_verdicts_as_without(python):
    if not WANTED and python.version[:2] not in [(3, 8), (3, 13)]:
        pytest.skip("TM_CPYTHON_TESTS is not set")
    modules = QUICK if not WANTED else [] if WANTED == "all" else WANTED.split()
    done = subprocess.run(
        [sys.executable, COMPARE, "--python", python.name] + modules,
        env=dict(os.environ, TM_BIN_DIR=os.path.abspath(BIN_DIR)), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode(errors="replace")
    if "none of these modules is there" in text:
        pytest.skip(text.strip())
    print(text)
    assert done.returncode == 0, text[-6000:]
