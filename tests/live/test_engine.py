# SPDX-License-Identifier: MIT
"""The tracing engine inside every Python: exact numbers, right tracebacks, a healthy program."""
import os
import signal
import subprocess

import pytest

import tms
from tools import BIN_DIR

HERE = os.path.dirname(os.path.abspath(__file__))
LIB_DIR = os.environ.get("TM_LIB_DIR") or os.path.join(os.path.dirname(BIN_DIR), "lib")
traceable = pytest.mark.pythons(low=(2, 7), high=(3, 13), api=True)


def run(python, program, *args, **options):
    """Runs programs/PROGRAM; returns the words of its last line."""
    if not os.path.exists(os.path.join(LIB_DIR, "libtm-engine-test.so")):
        pytest.skip("libtm-engine-test.so is not built")
    env = dict(os.environ, TM_LIB_DIR=os.path.abspath(LIB_DIR), PYTHONPATH=HERE,
               PYTHONDONTWRITEBYTECODE="1", **options.get("env", {}))
    done = subprocess.run(
        [python.path, os.path.join(HERE, "programs", program)] + [str(arg) for arg in args],
        env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=options.get("timeout", 300))
    text = done.stdout.decode(errors="replace")
    if done.returncode == -signal.SIGSEGV and "crashes" in options:
        options["crashes"].append(text)
    else:
        assert done.returncode == options.get("status", 0), text[-4000:]
    return text.strip().splitlines()[-1].split()


@pytest.mark.pythons(low=(2, 7), high=(3, 13), api=True)
def test_totals_equal_an_independent_log(python, tmp_path):
    words = run(python, "exact.py", tmp_path, 16, 600)
    assert words[0] == "exact" and int(words[3]) > 100000
    files = sorted(tmp_path.glob("*.tms"))
    assert len(files) >= 2
    for file in files:
        tms.File(file).check()


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_sizes_and_reallocs_block_by_block(python, tmp_path):
    with open("/proc/sys/vm/overcommit_memory") as file:
        if file.read().strip() == "2":
            pytest.skip("vm.overcommit_memory is 2: no blocks of 5 GiB here")
    assert run(python, "sizes.py", tmp_path / "a.tms")[0] == "sizes"


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_a_soak_ends_with_exact_totals(python, tmp_path):
    """8 threads, 16 frames, snapshots all the time. TM_SOAK_SECONDS=600 runs it for ten minutes;
    the few seconds of CI are for three versions."""
    seconds = int(os.environ.get("TM_SOAK_SECONDS", "4"))
    if "TM_SOAK_SECONDS" not in os.environ and not (
            python.free_threaded or python.version[:2] in [(3, 8), (3, 11), (3, 13)]):
        pytest.skip("TM_SOAK_SECONDS is not set")
    words = run(python, "exact.py", tmp_path, 16, "%ds" % seconds, 1, timeout=seconds * 2 + 300)
    print("blocks, bytes, calls, snapshots:", *words[1:])
    assert words[0] == "exact" and int(words[4]) >= 1
    for file in tmp_path.glob("*.tms"):
        tms.File(file).check()


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_counters_of_each_line(python, tmp_path):
    assert run(python, "counters.py", tmp_path / "a.tms")[0] == "counters"


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_samples_estimate_what_there_is(python, tmp_path):
    assert run(python, "sampling.py", tmp_path / "a.tms")[0] == "sampled"


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
@pytest.mark.parametrize("frames", [0, 1, 5, 4096])
def test_tracebacks_are_what_python_shows(python, tmp_path, frames):
    words = run(python, "tracebacks.py", tmp_path / "a.tms", frames)
    assert words[0] == "tracebacks" and int(words[1]) > 1000


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_tracebacks_of_threads_that_wander(python, tmp_path):
    """TM_STACKS_ROUNDS=50 wanders 50 times, each elsewhere, with 16, 64 and changing frames."""
    rounds = int(os.environ.get("TM_STACKS_ROUNDS", "1"))
    if "TM_STACKS_ROUNDS" not in os.environ and python.version[:2] not in [
            (3, 6), (3, 8), (3, 11), (3, 12), (3, 13)]:
        pytest.skip("TM_STACKS_ROUNDS is not set")
    for seed in range(rounds):
        for frames in ["16 64"] if rounds == 1 else ["16", "64", "16 64"]:
            words = run(python, "stacks.py", tmp_path / "a.tms", 2000, seed, *frames.split())
            assert words[0] == "stacks" and int(words[1]) > 2000


@traceable
def test_dropped_code_leaves_nothing_behind(python, tmp_path):
    rounds = int(os.environ.get("TM_CODE_CHURN_ROUNDS", "20000"))
    words = run(python, "code_churn.py", tmp_path / "a.tms", rounds, timeout=300 + rounds // 500)
    assert words[:2] == ["churned", "1000"]


@pytest.mark.pythons(low=(3, 4), high=(3, 13))
@pytest.mark.parametrize("order,says", [
    ("atAT", "true true inert"),
    ("atTA", "true true true restored"),
    ("taAT", "true restored"),
    ("taTA", "true displaced inert"),
    ("taT..A", "true displaced true true inert"),
    ("taT.tATa", "true displaced true true inert true"),
    ("atTAa", "true true true restored true"),
])
def test_beside_tracemalloc(python, tmp_path, order, says):
    words = run(python, "tracemalloc_orders.py", tmp_path / "a.tms", order)
    assert words == ["orders"] + says.split()


@traceable
def test_a_forked_child_is_healthy_and_can_trace(python, tmp_path):
    assert run(python, "forks_and_ends.py", tmp_path / "a.tms", "fork") == ["forked"]


@traceable
@pytest.mark.parametrize("scenario,status", [
    ("exit", 0), ("_exit", 0), ("exec", 0), ("abrupt", -9)])
def test_the_process_ends_as_it_would(python, tmp_path, scenario, status):
    """By itself a 3.10 with such daemon threads crashes at its end, once in some hundred times: one
    that waits for the GIL looks at its interpreter, which is gone (Python/ceval_gil.h, take_gil)."""
    by_itself = {"crashes": []} if scenario == "exit" and python.version[:2] == (3, 10) else {}
    for _ in range(3):
        words = run(python, "forks_and_ends.py", tmp_path / "a.tms", scenario, status=status,
                    timeout=60, **by_itself)
        assert words == ["ended"]
    assert len(by_itself.get("crashes", [])) <= 1


@traceable
def test_on_and_off_under_load(python, tmp_path):
    assert run(python, "forks_and_ends.py", tmp_path / "a.tms", "switch")[0] == "switched"


@traceable
def test_its_own_memory_is_told_and_goes_back(python, tmp_path):
    assert run(python, "memory_back.py")[0] == "back"


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_what_a_snapshot_takes_from_the_program(python, tmp_path):
    assert run(python, "beside_snapshots.py", tmp_path / "a.tms")[0] == "beside"


@traceable
def test_filters(python, tmp_path):
    assert run(python, "filters.py", tmp_path / "a.tms") == ["filtered"]


@pytest.mark.pythons(low=(3, 8), high=(3, 13))
def test_sub_interpreters(python, tmp_path):
    assert run(python, "subinterpreters.py", tmp_path / "a.tms") == ["interpreted"]
