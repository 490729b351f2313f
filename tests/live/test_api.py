# SPDX-License-Identifier: MIT
"""The Python module, imported: bodies in api/ run under every Python found."""
import os
import shutil
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


@pytest.mark.parametrize("name", ["behaviours.py", "document.py", "signatures.py",
                                  "snapshot_tasks.py"])
def test_body(python, name):
    must(run(python, body(name)))


# The whole promise is 10000 rounds, which take minutes on each Python: TM_STRESS_ROUNDS=10000.
STRESS_ROUNDS = os.environ.get("TM_STRESS_ROUNDS", "100")


def test_enable_disable_under_threads(python):
    assert must(run(python, body("stress.py"), STRESS_ROUNDS)).endswith("ok\n")


@pytest.mark.parametrize("scenario", ["at_exit_with_tasks", "at_exit_with_threads",
                                      "long_call_without_threads", "deleted_module",
                                      "subinterpreters", "forks_under_threads"])
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


def test_installed(python, tmp_path):
    """In a virtual environment, by the one file that its site-packages get."""
    if python.version < (3,):
        pytest.skip("2.7 cannot make a virtual environment by itself")
    venv = tmp_path / "venv"
    options = ["--without-pip"] if python.version >= (3, 4) else []  # 3.3 knows no pip
    subprocess.check_call([python.path, "-m", "venv"] + options + [str(venv)])
    shutil.copy(os.path.join(MODULE_DIR, "pytracemalloc.pth"), str(
        next(venv.glob("lib/python3*/site-packages"))))
    for value, expected in (("5", "True 5\n"), ("0", "False 1\n")):
        env = dict(os.environ, PYTRACEMALLOC=value, PYTHONDONTWRITEBYTECODE="1")
        env.pop("PYTHONPATH", None)
        out = subprocess.check_output([str(venv / "bin" / "python"), "-c", ASK], env=env)
        assert out.decode() == expected


def test_command_line(python, tmp_path):
    must(run(python, "-c", "import pytracemalloc as t; t.enable(); x = bytes(100000);"
             "t.Snapshot.create(traces=True).write(%r)" % str(tmp_path / "a.pickle")))
    status, out = run(python, "-m", "pytracemalloc", "-f", str(tmp_path / "a.pickle"))
    assert status == 0 and "allocations per filename" in out, out
    status, out = run(python, "-m", "pytracemalloc")
    assert status == 1 and "Usage" in out
    status, out = run(python, "-m", "pytracemalloc", TM_ANALYZE=str(tmp_path / "absent"))
    assert status == 1 and out.startswith("ERROR: cannot run"), out


# The document's, name of the module aside; then what stands for "run your application", and the
# command that the document has for the files.
APPLICATION = "# ... run your application ...\n"
EXAMPLES = {
    "display_top": """
import pytracemalloc
pytracemalloc.enable()
# ... run your application ...
pytracemalloc.DisplayTop().display(50)
""",
    "differences": """
import pytracemalloc
task = pytracemalloc.DisplayTopTask(25, group_by='filename')
task.display_top.count = False
task.display_top.average = False
task.display_top.metrics = False
task.set_memory_threshold(5 * 1024 * 1024)
task.set_delay(60)
pytracemalloc.enable()
task.schedule()
# ... run your application ...
""",
    "snapshot": """
import pytracemalloc
pytracemalloc.enable()
# ... run your application ...
snapshot = pytracemalloc.Snapshot.create(traces=True)
snapshot.write('snapshot.pickle')
""",
    "compare": """
import pytracemalloc
task = pytracemalloc.TakeSnapshotTask(traces=True)
task.set_memory_threshold(5 * 1024 * 1024)
task.set_delay(60)
pytracemalloc.enable()
task.schedule()
# ... run your application ...
""",
    "filters": """
import pytracemalloc
pytracemalloc.add_include_filter(pytracemalloc.__file__)
pytracemalloc.add_exclude_filter(pytracemalloc.__file__)
""",
}


# Each goes on until the example has shown what it is for: whether a call comes after one growth or
# the next is for behaviours.py to say.
GROWS = "n = 6 * 1024 * 1024\ndata = [b'x' * n]\n"
APPLICATIONS = {
    "differences": GROWS + """seen = set([None])
while len(seen) < 3:
    data.append(b'x' * n)
    seen.add(task.display_top.previous_top_stats)
""",
    "compare": GROWS + """import os
while not os.path.exists('tracemalloc-0002.pickle'):
    data.append(b'x' * n)
""",
}


def test_examples(python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = {}
    for name, example in EXAMPLES.items():
        (tmp_path / "as_it_stands.py").write_text(example)
        must(run(python, "as_it_stands.py"))
        (tmp_path / (name + ".py")).write_text(
            example.replace(APPLICATION, APPLICATIONS.get(name, GROWS.replace("[b'x' * n]", "b'x' * n"))))
        outputs[name] = must(run(python, name + ".py"))
    top = outputs["display_top"]
    assert "Top " in top and "allocations per filename and line number\n" in top
    assert "display_top.py:5: size=6 MiB, count=1\n" in top, top
    shown = outputs["differences"]
    assert shown.count("differences.py: ") >= 2 and "(compared to " in shown, shown
    assert "count=" not in shown and "average=" not in shown and "gc.objects" not in shown, shown
    status, out = run(python, "-m", "pytracemalloc", "snapshot.pickle")
    assert status == 0 and "snapshot.py:5: size=6 MiB, count=1\n" in out, out
    names = ["tracemalloc-0001.pickle", "tracemalloc-0002.pickle"]
    status, out = run(python, "-m", "pytracemalloc", *names)
    assert status == 0 and "(compared to " in out and "compare.py:" in out, out
