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


@pytest.mark.parametrize("name", ["tracing.py", "filters.py", "tasks.py", "snapshots.py",
                                  "display.py", "snapshot_tasks.py", "signatures.py"])
def test_body(python, name):
    must(run(python, body(name)))


# The whole promise is 10000 rounds, which take minutes on each Python: TM_STRESS_ROUNDS=10000.
STRESS_ROUNDS = os.environ.get("TM_STRESS_ROUNDS", "100")


def test_enable_disable_under_threads(python):
    assert must(run(python, body("stress.py"), STRESS_ROUNDS)).endswith("ok\n")


@pytest.mark.parametrize("scenario", ["at_exit_with_tasks", "at_exit_with_threads",
                                      "long_call_without_threads", "deleted_module",
                                      "subinterpreters", "own_gils", "forks_under_threads"])
def test_surroundings(python, scenario):
    if scenario == "own_gils" and python.version < (3, 12):
        pytest.skip("before 3.12 there is one GIL")
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


def test_stub():
    """By mypy's own judgement: each name, parameter and default of the stub is the module's."""
    stubtest = shutil.which("stubtest")
    if stubtest is None:
        pytest.skip("no stubtest")
    done = subprocess.run([stubtest, "pytracemalloc", "--concise"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, cwd=MODULE_DIR,
                          env=dict(os.environ, PYTHONPATH=MODULE_DIR, MYPYPATH=MODULE_DIR,
                                   MYPY_CACHE_DIR=os.devnull))
    assert done.returncode == 0, done.stdout.decode()


# Each option of the document by both its names, and what says that it was taken.
OPTIONS = [
    (["-a"], ["--address"], "allocations per address\n"),
    (["-f"], ["--file"], "allocations per filename\n"),
    (["-n", "1"], ["--number", "1"], "Top 1 allocations"),
    (["-c"], ["--cumulative"], "Cumulative top "),
    (["-t"], ["--traceback"], "Traceback of the top 2 biggest memory blocks"),
    (["-b", "0x10"], ["--block=16"], "memory block 0x10: 97 KiB"),
    (["-i", "*made.py"], ["--include", "*made.py"], "made.py:"),
    (["-I", "*made.py:2"], ["--include-traceback", "*made.py:2"], "made.py:"),
    (["-x", "*made.py:2"], ["--exclude", "*made.py:2"], "Top 1 "),
    (["-X", "*made.py:3"], ["--exclude-traceback", "*made.py:3"], "Top 0 "),
    (["-S"], ["--hide-size"], ".py:2: count=1\n"),
    (["-C"], ["--hide-count"], ".py:2: size=97 KiB\n"),
    (["-A", "-n", "0"], ["--hide-average", "-n", "0"], "2 more: size=195 KiB, count=2\n"),
    (["-M"], ["--hide-metrics"], "Traced Python memory: size=195 KiB, count=2, average=97 KiB\n\n"),
    (["-P", "1"], ["--filename-parts=1"], "#1: .../made.py:"),
    (["--color"], ["--color"], "\033[1m"),
    (["--no-color"], ["--no-color"], "Top 2 "),
]


def test_documented_options(python, tmp_path):
    made, path = str(tmp_path / "made.py"), str(tmp_path / "a.tms")
    traces = {0x10: (100000, ((made, 2), (made, 3))), 0x20: (100000, ((made, 1), (made, 3)))}
    stats = {made: {1: (100000, 1), 2: (100000, 1)}}
    must(run(python, "-c", "import datetime, pytracemalloc as t\nt.Snapshot(datetime.datetime.now(),"
             " 1, %r, %r, {'x': t.Metric('x', 1, 'int')}).write(%r)" % (traces, stats, path)))

    def show(command, *args):
        done = subprocess.run(command + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=dict(os.environ, PYTHONPATH=MODULE_DIR))
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    module, analyze = [python.path, "-m", "pytracemalloc"], [os.path.join(BIN_DIR, "tm-analyze")]
    for short, long, told in OPTIONS:
        shown = show(module, *short, path)
        assert told in shown, (short, shown)
        assert show(analyze, *long, path) == shown, long
        assert ("x: 1\n" in shown) == (short[0] not in ("-M", "-t", "-b", "--color")), shown
    assert show(module, "--first", path, path, path).count("(compared to ") == 2


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


# Two growths by more than the examples' threshold, and a bytecode boundary after each.
GROWS = """n = 6 * 1024 * 1024
first = b'x' * n
for i in range(3): pass
second = b'x' * n
for i in range(3): pass
"""


def test_examples(python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = {}
    for name, example in EXAMPLES.items():
        (tmp_path / "as_it_stands.py").write_text(example)
        must(run(python, "as_it_stands.py"))
    # Where all that is traced is gone, the lower edge of a small window is reached.
    for path in tmp_path.glob("tracemalloc*"):
        path.unlink()
    for name, example in EXAMPLES.items():
        (tmp_path / (name + ".py")).write_text(example.replace(APPLICATION, GROWS))
        outputs[name] = must(run(python, name + ".py"))
    top = outputs["display_top"]
    assert "Top " in top and "allocations per filename and line number\n" in top
    assert "display_top.py:5: size=6 MiB, count=1\n" in top, top
    shown = outputs["differences"]
    lines = [line.split("differences.py: ") for line in shown.splitlines()]
    assert [line[1] for line in lines if len(line) == 2][:2] == ["6 MiB", "12 MiB (+6 MiB)"], shown
    assert "count=" not in shown and "average=" not in shown and "gc.objects" not in shown, shown
    status, out = run(python, "-m", "pytracemalloc", "snapshot.pickle")
    assert status == 0 and "snapshot.py:5: size=6 MiB, count=1\n" in out, out
    names = ["tracemalloc-0001.pickle", "tracemalloc-0002.pickle"]
    assert sorted(path.name for path in tmp_path.glob("tracemalloc*"))[:2] == names
    status, out = run(python, "-m", "pytracemalloc", *names)
    assert status == 0 and "(compared to " in out, out
    assert "compare.py:11: size=6 MiB (+6 MiB), count=1 (+1)\n" in out, out
