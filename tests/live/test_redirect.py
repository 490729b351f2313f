# SPDX-License-Identifier: MIT
"""A 2.7 without the allocator API, as programs run it today: its code is changed in memory while it
is traced, and is the file's again afterwards."""
import os
import shutil
import struct
import subprocess

import pytest

from test_first_light import find_the_leak
from test_refusals import assert_one_line, refused
from tools import BIN_DIR, analyze_json, must, snapshot, tm_attach

LIB_DIR = os.environ.get("TM_LIB_DIR") or os.path.join(os.path.dirname(BIN_DIR), "lib")
unpatched = pytest.mark.pythons(low=(2, 7), high=(2, 7), api=False)

CHURN_ROUNDS = int(os.environ.get("TM_REDIRECT_ROUNDS", "8"))


def libpython_of(pid):
    """Its path, and where it is loaded."""
    with open("/proc/%d/maps" % pid) as file:
        lines = [line.split() for line in file if "libpython" in line]
    return lines[0][5], min(int(line[0].split("-")[0], 16) for line in lines)


def executable_segments(path):
    """(offset in the file, address, bytes) of an ELF file's segments that can be executed."""
    with open(path, "rb") as file:
        header = file.read(64)
        at, = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        for i in range(count):
            file.seek(at + i * size)
            kind, flags, offset, addr, _, n_bytes = struct.unpack_from("<IIQQQQ", file.read(56))
            if kind == 1 and flags & 1:
                yield offset, addr, n_bytes


def differing_bytes(pid):
    """How many bytes of the libpython's code in memory are not those of its file."""
    path, base = libpython_of(pid)
    result = compared = 0
    with open("/proc/%d/mem" % pid, "rb", 0) as memory, open(path, "rb") as file:
        for offset, addr, n_bytes in executable_segments(path):
            memory.seek(base + addr)
            file.seek(offset)
            ours, theirs = memory.read(n_bytes), file.read(n_bytes)
            assert len(ours) == len(theirs) == n_bytes
            compared += n_bytes
            result += sum(1 for a, b in zip(ours, theirs) if a != b) if ours != theirs else 0
    assert compared > 500000
    return result


@unpatched
def test_code_is_put_back(python, start_victim, tmp_path):
    victim = start_victim(python, "sleeps.py")
    before = victim.facts()
    assert differing_bytes(victim.pid) == 0
    must(tm_attach(victim.pid, cwd=tmp_path))
    # The five bytes of three jumps, of which some may be what they were.
    assert 3 <= differing_bytes(victim.pid) <= 15
    must(tm_attach("--detach", victim.pid))
    assert differing_bytes(victim.pid) == 0
    victim.assert_facts(before)
    victim.assert_advances()


def find_the_leak_and_the_text(victim, folder):
    find_the_leak(victim, folder)
    assert differing_bytes(victim.pid) == 0


@unpatched
def test_under_hostile_churn(python, start_victim, tmp_path):
    """Six threads allocate and free all the time while hooks come and go. TM_REDIRECT_ROUNDS raises
    how often."""
    victim = start_victim(python, "threads.py")
    before = victim.facts()
    for _ in range(CHURN_ROUNDS):
        find_the_leak_and_the_text(victim, tmp_path)
        victim.assert_advances()
    victim.assert_facts(before)


@unpatched
def test_threads_that_are_born_and_die(python, start_victim, tmp_path):
    """The checks meet threads that end meanwhile, and threads that compute without the GIL."""
    victim = start_victim(python, "unruly.py")
    for _ in range(5):
        must(tm_attach(victim.pid, cwd=tmp_path))
        must(tm_attach("--detach", victim.pid))
        assert differing_bytes(victim.pid) == 0
        victim.assert_advances()
    victim.command("quit")
    victim.expect("bye")
    assert victim.process.wait(60) == 0


@unpatched
def test_what_is_not_seen_is_said(python, start_victim, tmp_path):
    victim = start_victim(python, "reads.py")
    must(tm_attach(victim.pid, cwd=tmp_path))
    assert "PyObject_Malloc" in must(tm_attach("--status", victim.pid)).out
    path = snapshot(victim, tmp_path)
    with open(path, "rb") as file:
        data = file.read()
    assert b"unseen=" in data and b"domains=obj\0" in data
    assert analyze_json("top", "-n", "1", path)["snapshots"]
    must(tm_attach("--detach", victim.pid))


@unpatched
def test_children_of_a_traced_one(python, start_victim, tmp_path):
    """A child has the changed code and no agent: it lives on, while and after the parent is traced."""
    victim = start_victim(python, "forks.py")
    must(tm_attach(victim.pid, cwd=tmp_path))
    for _ in range(5):
        victim.assert_advances()
    must(tm_attach("--detach", victim.pid))
    assert differing_bytes(victim.pid) == 0
    victim.assert_advances()


# ---- a thread that is where it should not be ----

@pytest.fixture
def inside(start_victim):
    helper = os.path.join(os.path.abspath(LIB_DIR), "libtm-victim-inside.so")
    if not os.path.exists(helper):
        pytest.skip("libtm-victim-inside.so is not built (x86-64 only)")
    return lambda python: start_victim(python, "inside.py", helper)


def enter(victim):
    victim.command("enter")
    assert victim.expect("entered") == ["1"]


def leave(victim):
    """Goes on with the instructions that follow; where they had been changed, it would crash."""
    victim.command("leave")
    assert victim.expect("left") == ["1"]


@unpatched
def test_not_while_a_thread_is_inside(python, inside, tmp_path):
    """It waits in a signal handler, which has interrupted it between two instructions that change."""
    victim = inside(python)
    before = victim.facts()
    enter(victim)
    for _ in range(2):
        result = tm_attach(victim.pid, cwd=tmp_path)
        assert "a thread may be inside PyObject_Malloc" in result.err, result
        assert "patches/2.7/pep445.patch" in assert_one_line_of(result)
        assert differing_bytes(victim.pid) == 0
    victim.assert_advances()
    leave(victim)
    victim.assert_facts(before)
    # And once it has left:
    find_the_leak_and_the_text(victim, tmp_path)
    victim.assert_facts(before)


@unpatched
def test_code_stays_while_a_thread_is_inside(python, inside, tmp_path):
    """At the detach it is on its way through tm's page, which must not go."""
    victim = inside(python)
    must(tm_attach(victim.pid, cwd=tmp_path))
    enter(victim)
    assert "stay" in must(tm_attach("--detach", victim.pid)).out
    assert differing_bytes(victim.pid) > 0
    leave(victim)
    victim.assert_advances()


def assert_one_line_of(result):
    assert_one_line(result)
    return result.err


# ---- what is refused ----

class Library:
    """A copy of a libpython, to be spoiled."""

    def __init__(self, path, source):
        shutil.copy(source, path)
        self.path = path
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
        self.text = [segment for segment in executable_segments(path)]
        self.symbols = {name: (at,) + struct.unpack_from("<QQ", self.data, at + 8)
                        for name, at in self._dynamic_symbols()}

    def _dynamic_symbols(self):
        at, = struct.unpack_from("<Q", self.data, 40)
        size, count = struct.unpack_from("<HH", self.data, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", self.data, at + i * size) for i in range(count)]
        for section in sections:
            if section[1] != 11:  # SHT_DYNSYM
                continue
            names = sections[section[6]][4]
            for place in range(section[4], section[4] + section[5], 24):
                start = names + struct.unpack_from("<I", self.data, place)[0]
                yield bytes(self.data[start:self.data.index(b"\0", start)]).decode(), place

    def offset(self, name):
        """Where the function is in the file, and its size."""
        _, addr, size = self.symbols[name]
        return next(offset + addr - start for offset, start, n_bytes in self.text
                    if start <= addr < start + n_bytes), size

    def resize(self, name, size):
        struct.pack_into("<Q", self.data, self.symbols[name][0] + 16, size)

    def padding(self, least_bytes):
        """A function of the three behind which the linker left some bytes free, and their place."""
        for name in ("PyObject_Malloc", "PyObject_Free", "PyObject_Realloc"):
            start, size = self.offset(name)
            if -(start + size) % 16 >= least_bytes:
                return name, start + size
        pytest.skip("no room behind a function of this libpython")

    def write(self):
        with open(self.path, "wb") as file:
            file.write(self.data)


def short(library):
    library.resize("PyObject_Free", 6)
    return "PyObject_Free", "not where it can be redirected"


def unknown_instruction(library):
    """At the function's end, where nobody comes: a byte that begins no instruction in 64-bit mode."""
    name, at = library.padding(1)
    library.data[at] = 0x06
    library.resize(name, library.offset(name)[1] + 1)
    return name, "code that cannot be redirected"


def jump_from_elsewhere(library):
    """Behind a function, as if the compiler had put a part of PyObject_Free there."""
    _, at = library.padding(5)
    library.data[at] = 0xE9
    struct.pack_into("<i", library.data, at + 1, library.offset("PyObject_Free")[0] + 3 - (at + 5))
    return "PyObject_Free", "code that cannot be redirected"


def hooked_already(library):
    """What another tool leaves: a jump to a place that does the first instructions and jumps back."""
    start, _ = library.offset("PyObject_Free")
    first = bytes(library.data[start:start + 9])
    if first[:5] != b"\x48\x85\xff\x0f\x84":  # test %rdi,%rdi; je rel32
        pytest.skip("PyObject_Free of this libpython begins in another way")
    offset, _, n_bytes = max(library.text)
    cave = offset + n_bytes
    if -cave % 4096 < 16:
        pytest.skip("no room behind the code of this libpython")
    target = start + 9 + struct.unpack("<i", first[5:])[0]
    library.data[cave:cave + 14] = (
        first[:5] + struct.pack("<i", target - (cave + 9)) +
        b"\xe9" + struct.pack("<i", start + 9 - (cave + 14)))
    library.data[start:start + 5] = b"\xe9" + struct.pack("<i", cave - (start + 5))
    return "PyObject_Free", "code that cannot be redirected"


@unpatched
@pytest.mark.parametrize("spoil", [short, unknown_instruction, jump_from_elsewhere, hooked_already])
def test_refused_where_it_is_not_safe(python, start_victim, tmp_path, monkeypatch, spoil):
    """A libpython that works as the original does, and whose functions must not be changed."""
    source, _ = libpython_of(start_victim(python, "sleeps.py").pid)
    folder = tmp_path / "lib"
    folder.mkdir()
    library = Library(str(folder / os.path.basename(source)), source)
    function, words = spoil(library)
    library.write()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    victim = start_victim(python, "sleeps.py")
    assert libpython_of(victim.pid)[0] == library.path
    before = victim.facts()
    for _ in range(2):
        assert_one_line(tm_attach(victim.pid, cwd=tmp_path), function, words,
                        "patches/2.7/pep445.patch")
        assert differing_bytes(victim.pid) == 0
    victim.assert_facts(before)
    victim.assert_advances()


@pytest.mark.parametrize("version", ["2.7", "3.3"])
def test_refused_inside_an_executable(tmp_path, version):
    """From outside, without stopping it. The program only looks like Python, so that this runs
    everywhere."""
    path = str(tmp_path / ("python" + version))
    shutil.copy(os.path.join(BIN_DIR, "tm-victim-python"), path)
    process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        result = refused(process.pid, lambda: tm_attach(process.pid))
        assert_one_line(result, "CPython " + version, "patches/%s/pep445.patch" % version)
        assert ("inside its executable" in result.err) == (version == "2.7")
    finally:
        process.communicate(b"x", 60)
    assert process.returncode == 0


@pytest.mark.pythons(low=(2, 7), high=(3, 3), refused=True)
def test_refused_without_api(python, start_victim):
    victim = start_victim(python, "reads.py")
    before = victim.facts()
    result = refused(victim.pid, lambda: tm_attach(victim.pid))
    assert_one_line(result, "patches/%d.%d/pep445.patch" % python.version[:2])
    victim.assert_facts(before)
    victim.assert_advances()
