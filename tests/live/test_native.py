# SPDX-License-Identifier: MIT
"""Native frames: the same ones that gdb sees at the same moment, with the Python frames between
them, in every Python; and what is said where files are stripped, changed or gone."""
import json
import os
import shutil
import subprocess

import pytest

import tms
from debuginfod import Server
from tools import must, snapshot, tm_analyze, tm_attach
from victim import wait_until

CALLS = ["json", "re", "sqlite3", "ctypes", "sorted", "class", "generator", "extension"]
SIZE = 3456789
NATIVE = 1
HERE = os.path.dirname(os.path.abspath(__file__))

# Prints address and function of each frame that is on the stack: neither inlined ones nor those
# that gdb concludes from tail calls.
GDB_SCRIPT = """
import gdb
gdb.execute("set backtrace past-main on")
frame = gdb.newest_frame()
while frame is not None:
    if frame.type() == gdb.NORMAL_FRAME:
        print("FRAME %d %s" % (frame.pc(), frame.name()))
    frame = frame.older()
"""


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    path = tmp_path_factory.mktemp("extension") / "libtm-native-test.so"
    subprocess.run(["g++", "-O2", "-g", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(path),
                    os.path.join(HERE, "native_extension.cpp")], check=True)
    return path


@pytest.fixture
def gdb():
    if shutil.which("gdb") is None:
        pytest.skip("no gdb")


def gdb_frames(pid, folder):
    script = folder / "frames.py"
    script.write_text(GDB_SCRIPT)
    env = {key: value for key, value in os.environ.items() if key != "DEBUGINFOD_URLS"}
    done = subprocess.run(["gdb", "-nx", "-batch", "-p", str(pid), "-x", str(script)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, timeout=120, env=env)
    return [(int(line.split()[1]), line.split(None, 2)[2])
            for line in done.stdout.decode().splitlines() if line.startswith("FRAME ")]


def libdw_frames(pid):
    """As gdb_frames, by libdw's unwinder."""
    tool = os.path.join(os.environ["TM_BIN_DIR"], "..", "tests", "tools", "dwflstack")
    env = {key: value for key, value in os.environ.items() if key != "DEBUGINFOD_URLS"}
    done = subprocess.run([tool, str(pid)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    return [(int(line.split()[1]), line.split(None, 2)[2])
            for line in done.stdout.decode().splitlines() if line.startswith("FRAME ")]


class NativeFile(tms.File):
    def stack(self):
        """Of the biggest block: addresses of native frames and names of Python functions, most
        recent first."""
        trace = max(self.traces, key=lambda trace: trace.size)
        assert SIZE <= trace.size <= SIZE + 16
        result, node = [], trace.node
        while node:
            parent, site = self.nodes[node]
            _, function, _, kind, address, _, _ = self._sites[site]
            result.append(address if kind == NATIVE and address else self._string(function))
            node = parent
        return result


def groups(stack, is_python):
    """Native frames between runs of Python frames; those before the first are left out."""
    result, seen = [], False
    for frame in stack:
        if is_python(frame):
            if not seen or result[-1]:
                result.append([])
            seen = True
        elif seen:
            result[-1].append(frame)
    return result


def is_eval(name):
    return name.startswith("_PyEval_EvalFrameDefault")


def keep_block(victim):
    victim.command("go")
    victim.expect("kept")
    victim.wait_until_blocked()


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
@pytest.mark.parametrize("call", CALLS)
def test_frames_are_those_of_gdb(python, call, start_victim, tmp_path, extension, gdb):
    """And of libdw's own unwinder."""
    victim = start_victim(python, "native_calls.py", call, extension)
    must(tm_attach("--native=128", "--traceback-limit", 100, "--delay", 0, "--memory-threshold", 0,
                   victim.pid, cwd=tmp_path))
    keep_block(victim)
    path = snapshot(victim, tmp_path)
    seen = gdb_frames(victim.pid, tmp_path)
    file = NativeFile(path)
    file.check()
    stack = file.stack()
    names = [frame for frame in stack if isinstance(frame, str)]
    assert not [name for name in names if name.startswith("[")], stack
    assert names[0].split(".")[-1] == "keep", stack
    assert file.facts["native"] == "128"
    by_libdw = libdw_frames(victim.pid)
    found = groups(stack, lambda frame: isinstance(frame, str))
    if any(is_eval(name) for _, name in seen):
        expected = groups(seen, lambda frame: is_eval(frame[1]))
        assert found == [[address for address, _ in group] for group in expected]
        evals = {address for address, name in seen if is_eval(name)}
        assert [[address for address, _ in group] for group in
                groups(by_libdw, lambda frame: frame[0] in evals)] == found
    else:  # stripped: nobody knows which frames run Python code; ours are all the others, in order
        frames = [frame for group in found for frame in group]
        for others in seen, by_libdw:
            rest = iter([address for address, _ in others])
            assert frames and all(frame in rest for frame in frames), (frames, others)
    victim.command("go on")
    must(tm_attach("--detach", victim.pid))


def test_names_are_those_of_the_source(any_python, start_victim, tmp_path, extension):
    path = native_snapshot(any_python, start_victim, tmp_path, extension)
    frames = biggest_frames(path)
    functions = [frame for frame in frames if "native_extension.cpp" in frame]
    names = [frame[frame.index("(") + 1:-1] for frame in functions]
    assert names == ["outer::Keeper<int>::keep(int)", "innermost", "middle", "realigned",
                     "variable", "tm_test_enter"], frames
    lines = open(os.path.join(HERE, "native_extension.cpp")).read().split("\n")
    for frame, text in zip(functions, ["callback(value) + 1", "keeper.keep(value)",
                                       "innermost(callback", "middle(callback",
                                       "realigned(callback", "tail(callback"]):
        line = int(frame.split(":")[1].split()[0])
        assert text in lines[line - 1], frame


def native_snapshot(python, start_victim, folder, extension):
    victim = start_victim(python, "native_calls.py", "extension", extension)
    must(tm_attach("--native", "--traceback-limit", 100, "--delay", 0, "--memory-threshold", 0,
                   victim.pid, cwd=folder))
    keep_block(victim)
    return snapshot(victim, folder)


def biggest_frames(path, *args):
    """Frames of the biggest traceback as tm-analyze shows them."""
    result = tm_analyze("traceback", "-n", 1, "--json", path, *args)
    assert result.status == 0, result
    return json.loads(result.out)["items"][0]["traceback"]


def test_separate_debug_file(any_python, start_victim, tmp_path, extension):
    if shutil.which("objcopy") is None:
        pytest.skip("no objcopy")
    module = tmp_path / "libstripped.so"
    shutil.copy(str(extension), str(module))
    debug = tmp_path / "debug"
    build_id = subprocess.run(["readelf", "-n", str(module)], stdout=subprocess.PIPE, check=True) \
        .stdout.decode().split("Build ID: ")[1].split()[0]
    folder = debug / ".build-id" / build_id[:2]
    folder.mkdir(parents=True)
    subprocess.run(["objcopy", "--only-keep-debug", str(module),
                    str(folder / (build_id[2:] + ".debug"))], check=True)
    subprocess.run(["strip", str(module)], check=True)
    path = native_snapshot(any_python, start_victim, tmp_path, module)
    result = tm_analyze("traceback", "-n", 1, "--json", path)
    assert "libstripped.so: stripped" in result.err
    assert "keep(int)" not in result.out and "tm_test_enter" in result.out
    found = biggest_frames(path, "--debug-dir", debug)
    assert any("(outer::Keeper<int>::keep(int))" in frame for frame in found), found
    assert any("(innermost)" in frame for frame in found), found
    # The module goes: its debug file knows it still.
    module.unlink()
    found = biggest_frames(path, "--debug-dir", debug)
    assert any("(outer::Keeper<int>::keep(int))" in frame for frame in found), found
    result = tm_analyze("traceback", "-n", 1, "--json", path)
    assert "libstripped.so: No such file or directory" in result.err
    assert "libstripped.so+0x" in result.out and "tm_test_enter" not in result.out


def test_debug_link(any_python, start_victim, tmp_path, extension):
    """Without a build-id, by the name and checksum that .gnu_debuglink has; not the wrong file."""
    module, debug = tmp_path / "liblinked.so", tmp_path / ".debug" / "liblinked.so.debug"
    debug.parent.mkdir()
    subprocess.run(["g++", "-O2", "-g", "-shared", "-fPIC", "-fvisibility=hidden",
                    "-Wl,--build-id=none", "-o", str(module),
                    os.path.join(HERE, "native_extension.cpp")], check=True)
    subprocess.run(["objcopy", "--only-keep-debug", str(module), str(debug)], check=True)
    subprocess.run(["objcopy", "--strip-all", "--add-gnu-debuglink=" + str(debug), str(module)],
                   check=True)
    path = native_snapshot(any_python, start_victim, tmp_path, module)
    found = biggest_frames(path)
    assert any("(outer::Keeper<int>::keep(int))" in frame for frame in found), found
    with open(str(debug), "ab") as file:
        file.write(b"another checksum")
    result = tm_analyze("traceback", "-n", 1, "--json", path)
    assert "liblinked.so: stripped" in result.err and "keep(int)" not in result.out
    debug.unlink()
    result = tm_analyze("traceback", "-n", 1, "--json", path)
    assert "liblinked.so: stripped" in result.err and "keep(int)" not in result.out


def test_debuginfod(any_python, start_victim, tmp_path, extension, monkeypatch):
    """Asked only when the user says so."""
    module, debug = tmp_path / "libserved.so", tmp_path / "served" / "libserved.debug"
    debug.parent.mkdir()
    shutil.copy(str(extension), str(module))
    build_id = subprocess.run(["readelf", "-n", str(module)], stdout=subprocess.PIPE, check=True) \
        .stdout.decode().split("Build ID: ")[1].split()[0]
    subprocess.run(["objcopy", "--only-keep-debug", str(module), str(debug)], check=True)
    subprocess.run(["strip", str(module)], check=True)
    path = native_snapshot(any_python, start_victim, tmp_path, module)
    server = Server(debug.parent, tmp_path)
    try:
        server.wait_for(build_id)
        monkeypatch.setenv("DEBUGINFOD_URLS", server.url)
        monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "cache"))
        result = tm_analyze("traceback", "-n", 1, "--json", path)
        assert "libserved.so: stripped" in result.err and "keep(int)" not in result.out
        assert not (tmp_path / "cache").exists()
        found = biggest_frames(path, "--debuginfod")
        assert any("(outer::Keeper<int>::keep(int))" in frame for frame in found), found
    finally:
        server.end()


def test_code_without_unwind_tables(any_python, start_victim, tmp_path, extension):
    """The stack ends there, marked; the Python frames that are left follow."""
    module = tmp_path / "libbare.so"
    subprocess.run(["g++", "-O2", "-g", "-shared", "-fPIC", "-fvisibility=hidden",
                    "-fno-asynchronous-unwind-tables", "-fno-exceptions", "-fno-unwind-tables",
                    "-o", str(module), os.path.join(HERE, "native_extension.cpp")], check=True)
    path = native_snapshot(any_python, start_victim, tmp_path, module)
    stack = NativeFile(path).stack()
    names = [frame for frame in stack if isinstance(frame, str)]
    cut = stack.index("[native stack cut: no unwind table]")
    assert names[-1] == "<module>" and all(isinstance(frame, str) for frame in stack[cut:]), stack
    frames = biggest_frames(path)
    assert sum("libbare.so" in frame or "native_extension.cpp" in frame for frame in frames) == 1


def test_changed_module_is_not_guessed(any_python, start_victim, tmp_path, extension):
    module = tmp_path / "libchanged.so"
    shutil.copy(str(extension), str(module))
    path = native_snapshot(any_python, start_victim, tmp_path, module)
    source = tmp_path / "other.cpp"
    source.write_text(open(os.path.join(HERE, "native_extension.cpp")).read() +
                      "\nint tm_another_function(int x) { return x * 3; }\n")
    module.unlink()
    subprocess.run(["g++", "-O2", "-g", "-shared", "-fPIC", "-o", str(module), str(source)],
                   check=True)
    result = tm_analyze("traceback", "-n", 1, "--json", path)
    assert "is not the file that was traced" in result.err
    assert "libchanged.so+0x" in result.out and "keep(int)" not in result.out


def test_lines_are_those_without_native(any_python, start_victim, tmp_path, extension):
    path = native_snapshot(any_python, start_victim, tmp_path, extension)
    top = analyze_items(path)
    assert top[0]["file"].endswith("native_calls.py") and top[0]["size"] >= SIZE
    by_function = analyze_items(path, "-g", "function")
    assert by_function[0]["file"].startswith("/") and by_function[0]["function"]
    by_module = analyze_items(path, "-g", "module", "-c")
    assert any(item["file"].endswith("libtm-native-test.so") and item["size"] >= SIZE
               for item in by_module), by_module


def analyze_items(path, *args, command="top"):
    result = tm_analyze(command, "--json", path, *args)
    assert result.status == 0, result
    return json.loads(result.out)["items"]


def test_diff_and_leaks(any_python, start_victim, tmp_path, extension):
    """By Python line as without native frames; by traceback with all of them, mixed; by module."""
    victim = start_victim(any_python, "native_calls.py", "growing", extension)
    must(tm_attach("--native", "--traceback-limit", 100, "--delay", 0, "--memory-threshold", 0,
                   victim.pid, cwd=tmp_path))
    paths = []
    for _ in range(6):
        victim.command("go")
        victim.expect("done")
        paths.append(snapshot(victim, tmp_path))

    def grown(command, *args):
        if command == "diff":
            return analyze_items(paths[0], paths[-1], *args, command=command)
        return analyze_items(*paths, *args, command=command)
    for command, least in ("diff", 5), ("leaks", 3):  # leaks leaves a warm-up out
        by_line = grown(command)[0]
        assert by_line["file"].endswith("native_calls.py"), by_line
        assert by_line["size_diff"] >= least * SIZE, by_line
        frames = " ".join(grown(command, "-g", "traceback")[0]["traceback"])
        native = [frames.index(name) for name in ("outer::Keeper<int>::keep(int)", "variable",
                                                  "tm_test_enter")]
        python = frames.index("<lambda>)"), frames.index("(call_growing)")
        assert python[0] < native[0] < native[1] < native[2] < python[1], frames
        by_module = grown(command, "-g", "module", "-c")
        assert any(item["file"].endswith("libtm-native-test.so")
                   and item["size_diff"] >= least * SIZE for item in by_module), by_module


def test_exports(any_python, start_victim, tmp_path, extension):
    path = native_snapshot(any_python, start_victim, tmp_path, extension)
    for name in ("collapsed", "speedscope", "heaptrack", "dhat"):
        result = tm_analyze("convert", "--to", name, path)
        assert result.status == 0 and "outer::Keeper<int>::keep(int)" in result.out, name
    out = tmp_path / "out.pb.gz"
    assert tm_analyze("convert", path, "-o", out).status == 0
    import gzip
    data = gzip.open(str(out)).read()
    assert b"outer::Keeper<int>::keep(int)" in data and b"libtm-native-test.so" in data


def test_modules_loaded_later_are_seen(any_python, start_victim, tmp_path, extension):
    """A library that comes after the attach: first its frames end the stack, which is said, then
    the agent has noticed."""
    victim = start_victim(any_python, "native_calls.py", "late", extension)
    must(tm_attach("--native=128", "--traceback-limit", 100, "--delay", 0, "--memory-threshold", 0,
                   victim.pid, cwd=tmp_path))

    def is_whole():
        keep_block(victim)
        stack = NativeFile(snapshot(victim, tmp_path)).stack()
        victim.command("go on")
        victim.expect("done")
        cut = [frame for frame in stack if isinstance(frame, str) and frame.startswith("[")]
        assert cut in ([], ["[native stack cut: code of no known module]"])
        assert [frame for frame in stack if isinstance(frame, str)][-1] == "<module>"
        return not cut
    wait_until(is_whole, "the agent to notice a library")


def test_options(any_python, start_victim, tmp_path, extension):
    victim = start_victim(any_python, "native_calls.py", "json", extension)
    assert tm_attach("--native=129", victim.pid).status == 2
    must(tm_attach("--native=3", "--traceback-limit", 5, victim.pid, cwd=tmp_path))
    keep_block(victim)
    file = NativeFile(snapshot(victim, tmp_path))
    assert sum(isinstance(frame, int) for frame in file.stack()) == 3
    assert file.facts["native"] == "3"
    must(tm_attach("--native=0", victim.pid, cwd=tmp_path))
    assert NativeFile(snapshot(victim, tmp_path)).facts["native"] == "0"
    must(tm_attach("--detach", victim.pid))


def test_module_in_the_place_of_another(any_python, start_victim, tmp_path, extension):
    """One library goes and another comes to its place, sooner than the agent looks: neither its
    tables nor its name are taken for the new one's."""
    paths = [tmp_path / "libfirst.so", tmp_path / "libsecond.so"]
    for path, size in zip(paths, (64, 512)):
        subprocess.run(["g++", "-O2", "-g", "-shared", "-fPIC", "-fvisibility=hidden",
                        "-DTM_BUFFER=%d" % size, "-o", str(path),
                        os.path.join(HERE, "native_extension.cpp")], check=True)
    victim = start_victim(any_python, "native_calls.py", "replaced", *paths)
    must(tm_attach("--native=128", "--traceback-limit", 100, "--delay", 0, "--memory-threshold", 0,
                   victim.pid, cwd=tmp_path))
    for _ in range(int(os.environ.get("TM_NATIVE_ROUNDS", "3"))):
        victim.command("go")
        places = victim.expect("places")
        assert places[0] == places[1], "the second library did not come to the place of the first"
        victim.expect("kept")
        victim.wait_until_blocked()
        path = snapshot(victim, tmp_path)
        stack = NativeFile(path).stack()
        victim.command("go on")
        victim.expect("done")
        assert [frame for frame in stack if isinstance(frame, str)][-1] == "<module>", stack
        frames = biggest_frames(path)
        assert not any("libfirst" in frame for frame in frames), frames
        names = [frame[frame.index("(") + 1:-1] for frame in frames
                 if "native_extension.cpp" in frame]
        assert names == ["outer::Keeper<int>::keep(int)", "innermost", "middle", "realigned",
                         "variable", "tm_test_enter"][:len(names)], frames
        assert len(names) == 6 or any(frame.startswith("[native stack cut")
                                      for frame in stack if isinstance(frame, str)), frames


@pytest.mark.pythons(low=(3, 6), high=(3, 13))
def test_stacks_of_all_kinds(python, start_victim, tmp_path, extension):
    """Small stacks, deep recursion, signal handlers, a coroutine's stack between guard pages."""
    rounds = os.environ.get("TM_NATIVE_ROUNDS", "3")
    victim = start_victim(python, "native_calls.py", "threads", extension, rounds)
    must(tm_attach("--native", "--traceback-limit", 4, "--delay", 0, "--memory-threshold", 0,
                   victim.pid, cwd=tmp_path))
    keep_block(victim)
    file = NativeFile(snapshot(victim, tmp_path))
    file.check()
    assert any(isinstance(frame, int) for frame in file.stack())
    functions = [file._string(site[1]) for site in file._sites[1:]]
    assert "[native stack cut: not a known stack]" in functions
    victim.command("go on")
    victim.expect("done")
    must(tm_attach("--detach", victim.pid))
