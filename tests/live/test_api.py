# SPDX-License-Identifier: MIT
"""The Python module, imported: bodies in api/ run under every Python found."""
import os
import subprocess
import sys

import pytest

from tools import BIN_DIR

BODIES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "api")
MODULE_DIR = os.path.join(os.path.abspath(BIN_DIR), "..", "lib", "python")


def run(python, *args, **environment):
    env = dict(os.environ, PYTHONPATH=MODULE_DIR, PYTHONDONTWRITEBYTECODE="1",
               PYTHONWARNINGS="ignore", TM_BIN_DIR=os.path.abspath(BIN_DIR), **environment)
    done = subprocess.run([python.path] + list(args), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=env, timeout=600)
    return done.returncode, done.stdout.decode()


def must(result):
    assert result[0] == 0, result[1]
    return result[1]


def body(name):
    return os.path.join(BODIES, name)


pytestmark = pytest.mark.pythons(low=(2, 7), high=(3, 13))


@pytest.mark.parametrize("name", ["behaviours.py", "document.py"])
def test_body(python, name):
    must(run(python, body(name)))


# The whole promise is 10000 rounds, which take minutes on each Python: TM_STRESS_ROUNDS=10000.
STRESS_ROUNDS = os.environ.get("TM_STRESS_ROUNDS", "300")


def test_enable_disable_under_threads(python):
    assert must(run(python, body("stress.py"), STRESS_ROUNDS)).endswith("ok\n")


@pytest.mark.parametrize("scenario", ["at_exit_with_tasks", "at_exit_with_threads",
                                      "deleted_module", "subinterpreters", "forks_under_threads"])
def test_surroundings(python, scenario):
    if scenario == "subinterpreters" and python.version < (3,):
        pytest.skip("2.7 has nothing that makes an interpreter from Python")
    assert must(run(python, body("surroundings.py"), scenario)) == "ok\n"


ASK = "import pytracemalloc as t; print('%s %s' % (t.is_enabled(), t.get_traceback_limit()))"


@pytest.mark.parametrize("value, expected", [
    ("5", "True 5\n"), ("0", "False 1\n"), ("", "False 1\n")])
def test_environment(python, value, expected):
    assert must(run(python, "-c", ASK, PYTRACEMALLOC=value)) == expected


def test_environment_enables_before_the_program(python):
    found = must(run(python, "-c", "import sys; m = sys.modules.get('pytracemalloc');"
                     "print(m is not None and m.is_enabled())", PYTRACEMALLOC="1"))
    assert found == "True\n"
    assert must(run(python, "-c", "import sys; print('pytracemalloc' in sys.modules)")) == "False\n"


def test_environment_that_is_no_number(python):
    assert must(run(python, "-c", ASK, PYTRACEMALLOC="many")) == (
        "PYTRACEMALLOC: invalid number of frames\nFalse 1\n")


def test_hidden_sitecustomize_runs(python, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("__builtins__['hidden'] = __file__\n")
    env = dict(os.environ, PYTHONPATH="%s:%s" % (MODULE_DIR, tmp_path), PYTRACEMALLOC="1",
               PYTHONDONTWRITEBYTECODE="1")
    out = subprocess.check_output([python.path, "-c", "print(hidden)"], env=env)
    assert out.decode().strip() == str(tmp_path / "sitecustomize.py")


def test_command_line(python, tmp_path):
    must(run(python, "-c", "import pytracemalloc as t; t.enable(); x = bytes(100000);"
             "t.Snapshot.create(traces=True).write(%r)" % str(tmp_path / "a.pickle")))
    status, out = run(python, "-m", "pytracemalloc", "-f", str(tmp_path / "a.pickle"))
    assert status == 0 and "allocations per filename" in out, out
    status, out = run(python, "-m", "pytracemalloc")
    assert status == 1 and "Usage" in out
    status, out = run(python, "-m", "pytracemalloc", TM_ANALYZE=str(tmp_path / "absent"))
    assert status == 1 and out.startswith("ERROR: cannot run"), out
