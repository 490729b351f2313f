# SPDX-License-Identifier: MIT
"""Names, files and lines of native addresses, compared with those of binutils' addr2line; what is
said where a file cannot tell; and the same answers on one core and on many."""
import json
import os
import random
import re
import subprocess

import pytest

from conftest import ANALYZE, need

BASE = 0x10000000
LENGTH = 0x40000000
ROUNDS = int(os.environ.get("TM_SYMBOL_ROUNDS", "40"))

# Four files of this make a module: namespaces, templates, lambdas, and functions that are inlined
# three deep, with more calls than one thread is given.
SHARED = """
#define INLINE inline __attribute__((always_inline))
extern "C" void *take(unsigned long);
namespace outer { namespace inner {
template <typename T> struct Box {
    T *item;
    INLINE void fill(int n) {
        item = static_cast<T *>(take(sizeof(T) * n));
        take(n);
    }
    template <int N> INLINE int twice() {
        fill(N);
        fill(N + 1);
        return item != nullptr;
    }
};
} }
namespace { template <typename F> INLINE int call(F f) { return f(3) + f(4); } }
template <int N> __attribute__((noinline)) int work(int x)
{
    outer::inner::Box<long> box;
    auto fill = [&](int n) { box.fill(n + N); return n; };
    return box.template twice<N>() + call(fill) + x;
}
"""
UNIT = """
#include "shared.h"
namespace { struct Local { __attribute__((noinline)) int hidden(int x) { return work<%(n)d>(x) + 1; } }; }
int unit%(n)d(int x)
{
    Local local;
    int sum = local.hidden(x);
%(calls)s
    return sum;
}
"""
TAKE = """
#include <cstdlib>
extern "C" void *take(unsigned long n) { void *p = std::malloc(n); asm volatile("" : "+r"(p)); return p; }
"""


class Maker:
    """Compiles modules in the test's folder."""

    def __init__(self, shop):
        self.shop = shop
        self.env = {key: value for key, value in os.environ.items() if key != "DEBUGINFOD_URLS"}
        shop.write("shared.h", SHARED.encode())
        shop.write("take.cpp", TAKE.encode())
        self.units = ["take.cpp"]
        for n in range(0, 160, 40):
            calls = "\n".join("    sum += work<%d>(sum);" % k for k in range(n, n + 40))
            self.units.append("unit%d.cpp" % n)
            shop.write(self.units[-1], (UNIT % {"n": n, "calls": calls}).encode())

    def do(self, *command, **options):
        return subprocess.run(command, cwd=self.shop.path, env=self.env, check=True,
                              stdout=subprocess.PIPE, **options).stdout.decode()

    def build(self, name, *options, compiler="g++", units=None):
        """Object by object: .dwo files are named after them."""
        objects = []
        for unit in units or self.units:
            objects.append(unit.replace(".cpp", ".o"))
            self.do(need(compiler), "-O2", "-g", "-fPIC", "-ffile-prefix-map=%s=." % self.shop.path,
                    *options, "-c", unit, "-o", objects[-1])
        link = [option for option in options if option.startswith("-Wl") or option == "-s"]
        self.do(need("g++"), "-shared", "-Wl,--build-id", *link, "-o", name, *objects)
        return name

    def calls(self, name, section=".text"):
        """Where calls of the module return to."""
        text = self.do(need("objdump"), "-d", "--no-show-raw-insn", "-j", section, name)
        found, is_behind = [], False
        for line in text.splitlines():
            match = re.match(r"\s+([0-9a-f]+):\s+(\S+)", line)
            if match and is_behind:
                found.append(int(match.group(1), 16))
            if match:
                is_behind = match.group(2).startswith("call")
        assert found
        return found

    def build_id(self, name):
        match = re.search(r"Build ID: (\w+)", self.do("readelf", "-n", name))
        return match.group(1) if match else "-"

    def extent(self, name):
        ends = [(int(line[2], 16), int(line[2], 16) + int(line[5], 16)) for line in
                (row.split() for row in self.do("readelf", "-lW", name).splitlines())
                if line[:1] == ["LOAD"]]
        return max(end for _, end in ends) - min(start for start, _ in ends)

    def snapshot(self, name, addresses, build_id=None, length=LENGTH, out="a.tms"):
        """One block at each address; the Python frame behind it has the address as its line."""
        path = os.path.realpath(os.path.join(self.shop.path, name))
        lines = ["native 0 %s 0x%x 0x%x %s" % (path, BASE, BASE + length,
                                               build_id or self.build_id(name))]
        lines += ["trace 0x%x 100 0 0 - 0 @0x%x;u.py:%d:f" % (0x1000 + 256 * i, BASE + address,
                                                              address)
                  for i, address in enumerate(addresses)]
        return self.shop.make(out, "\n".join(lines) + "\n")

    def frames(self, snapshot, *options):
        """By address: (function, base name of the file, line), innermost first; and stderr."""
        result = self.shop.run("top", "--json", "--group-by", "traceback", "-n", "1000000",
                               *options, snapshot)
        assert result.status == 0, result.err
        found = {}
        for item in json.loads(result.out)["items"]:
            frames = []
            for text in item["traceback"]:
                place, line, function = re.match(r"(.*?):(\d+|\?) \((.*)\)$", text).groups()
                frames.append((function, os.path.basename(place),
                               0 if line == "?" else int(line)))
            found[frames.pop()[2]] = frames
        return found, result.err

    def reference(self, name, addresses):
        text = self.do(need("addr2line"), "-a", "-i", "-f", "-C", "-e", name,
                       input="".join("0x%x\n" % (a - 1) for a in addresses).encode())
        found, lines = {}, iter(text.splitlines())
        for line in lines:
            if re.match("0x[0-9a-f]+$", line):
                frames = found.setdefault(int(line, 16) + 1, [])
                continue
            path, _, number = next(lines).split(" (disc")[0].rpartition(":")
            frames.append((line, os.path.basename(path), int(number) if number != "?" else 0))
        return found


@pytest.fixture
def maker(shop):
    return Maker(shop)


def is_same_name(ours, theirs):
    """binutils says the symbol of a part that the compiler split off or cloned."""
    whole = re.sub(r" (\[clone|\(\.).*", "", theirs)
    return ours == whole or whole != theirs and ours in whole


def check(maker, name, is_dwarf5=False):
    addresses = maker.calls(name)
    theirs = maker.reference(name, addresses)
    ours, said = maker.frames(maker.snapshot(name, addresses))
    assert said == ""
    assert sorted(ours) == sorted(addresses)
    n_compared = n_inlined = 0
    for address in addresses:
        if not theirs[address][-1][1].endswith((".cpp", ".h")):
            continue  # the compiler's start-up code
        n_compared += 1
        n_inlined += len(theirs[address]) > 2
        if is_dwarf5:  # binutils 2.40 may take the wrong file of the line table; test_dwarf_5
            theirs[address][0] = (theirs[address][0][0], *ours[address][0][1:2],
                                  theirs[address][0][2])
        assert [f[1:] for f in ours[address]] == [f[1:] for f in theirs[address]], hex(address)
        for mine, other in zip(ours[address], theirs[address]):
            assert is_same_name(mine[0], other[0]), (hex(address), mine, other)
    assert n_compared > 1000 and n_inlined > 500
    return ours


@pytest.mark.parametrize("options", [(), ("-gz",), ("-ffunction-sections", "-Wl,--gc-sections")],
                         ids=["plain", "compressed", "sections"])
def test_frames_are_those_of_addr2line(maker, options):
    check(maker, maker.build("lib.so", "-gdwarf-4", *options))


def test_dwarf_5(maker):
    four = check(maker, maker.build("lib.so", "-gdwarf-4"))
    assert check(maker, maker.build("lib.so", "-gdwarf-5"), is_dwarf5=True) == four


def test_without_aranges(maker):
    """clang writes no .debug_aranges; without them the units' own ranges must do."""
    maker.build("lib.so", "-gdwarf-4")
    maker.do(need("objcopy"), "--remove-section", ".debug_aranges", "lib.so", "bare.so")
    assert ".debug_aranges" not in maker.do("readelf", "-SW", "bare.so")
    check(maker, "bare.so")


def test_some_units_have_aranges(maker):
    """Those that have none lie between those that do."""
    maker.build("lib.so", "-gdwarf-4")
    maker.do(need("objcopy"), "--remove-section", ".debug_aranges", "unit40.o")
    maker.do("g++", "-shared", "-Wl,--build-id", "-o", "mixed.so",
             *[unit.replace(".cpp", ".o") for unit in maker.units])
    check(maker, "mixed.so")


def chains(frames):
    """Files and lines of the calls in work(). Not the names: compilers spell lambdas differently."""
    result = set()
    for found in frames.values():
        number = re.match(r"int work<(\d+)>\(int\)$", found[-1][0])
        if number and len(found) > 1:
            result.add((number.group(1),) + tuple(frame[1:] for frame in found))
    return result


def test_clang(maker):
    """It writes no .debug_aranges. binutils misses what it inlined, so that gcc is the measure."""
    gcc = maker.frames(maker.snapshot(maker.build("lib.so"), maker.calls("lib.so")))[0]
    maker.build("lib.so", compiler="clang++")
    clang, said = maker.frames(maker.snapshot("lib.so", maker.calls("lib.so")))
    assert said == ""
    assert chains(clang) == chains(gcc) and len(chains(gcc)) == 6 * 160


def test_clang_lines_only(maker):
    """Full names of functions by their symbols."""
    maker.build("lib.so", "-gline-tables-only", compiler="clang++")
    frames, said = maker.frames(maker.snapshot("lib.so", maker.calls("lib.so")))
    assert said == "" and len(chains(frames)) == 6 * 160
    assert "(anonymous namespace)::Local::hidden(int)" in {f[-1][0] for f in frames.values()}


def test_split_dwarf(maker):
    """Files and lines stay when the .dwo files are lost; what was inlined cannot be known, and that
    is said."""
    maker.build("lib.so")
    whole = maker.frames(maker.snapshot("lib.so", maker.calls("lib.so")))[0]
    maker.build("lib.so", "-gsplit-dwarf")
    addresses = maker.calls("lib.so")
    snapshot = maker.snapshot("lib.so", addresses)
    split, said = maker.frames(snapshot)
    assert said == ""
    assert sorted(split.values()) == sorted(whole.values())
    for unit in maker.units:
        os.unlink(os.path.join(maker.shop.path, unit.replace(".cpp", ".dwo")))
    lost, said = maker.frames(snapshot)
    assert said.count("\n") == 1 and ".dwo files that it names were not found" in said
    for address in addresses:
        assert len(lost[address]) == 1
        assert lost[address][0][1:] == split[address][0][1:]


def test_symbol_table_alone(maker):
    """Without DWARF each address still has the function that has its code."""
    maker.build("lib.so")
    addresses = maker.calls("lib.so")
    whole = maker.frames(maker.snapshot("lib.so", addresses))[0]
    maker.do("strip", "-g", "lib.so")
    frames, said = maker.frames(maker.snapshot("lib.so", addresses))
    assert said == ""
    for address in addresses:
        assert len(frames[address]) == 1
        assert whole[address][-1][0] in frames[address][0][0]


def test_assembler_has_names(maker):
    """A label with and without a type; the second counts only where .symtab is."""
    maker.shop.write("a.s", b"""
        .globl typed
        .type typed,@function
typed:  call take@plt
        ret
        .size typed,.-typed
        .globl plain
plain:  call take@plt
        ret
        .section .note.GNU-stack,"",@progbits
""")
    maker.do("g++", "-shared", "-fPIC", "-Wl,--build-id", "-o", "asm.so", "a.s")
    addresses = maker.calls("asm.so")[-2:]
    frames, said = maker.frames(maker.snapshot("asm.so", addresses))
    assert said == "" and [frames[a][0][0] for a in addresses] == ["typed", "plain"]
    maker.do("strip", "asm.so")
    frames, said = maker.frames(maker.snapshot("asm.so", addresses))
    assert "stripped, and no debug file was found" in said
    assert [frames[a][0][0] for a in addresses] == ["typed", "asm.so+0x%x" % addresses[1]]


def test_stripped_and_without_build_id(maker):
    """As musl's systems have them: names of exported functions, and a word on what is not sure."""
    maker.build("lib.so", "-Wl,--build-id=none", "-s")
    assert maker.build_id("lib.so") == "-"
    addresses = maker.calls("lib.so")
    snapshot = maker.snapshot("lib.so", addresses, length=maker.extent("lib.so"))
    frames, said = maker.frames(snapshot)
    path = os.path.realpath(os.path.join(maker.shop.path, "lib.so"))
    assert said == (
        "tm-analyze: %s: has no build-id; that it is the file that was traced is concluded from its "
        "size\n"
        "tm-analyze: %s: stripped, and no debug file was found; only exported functions have "
        "names\n" % (path, path))
    names = {frame[0] for found in frames.values() for frame in found}
    assert {"take", "unit0(int)", "int work<7>(int)"} <= names
    assert not any("hidden" in name for name in names)
    for address in addresses:
        assert len(frames[address]) == 1
        if "+0x" in frames[address][0][0]:
            assert frames[address][0][0] == "lib.so+0x%x" % address


@pytest.mark.parametrize("has, traced, reason", [
    (False, "00112233", "it has no build-id, that one had 00112233"),
    (True, "-", "that one had none"),
    (True, "00112233", "not 00112233"),
    (False, "-", "its size differs")])
def test_other_files_are_not_believed(maker, has, traced, reason):
    maker.build("lib.so", "-Wl,--build-id=%s" % ("sha1" if has else "none"), units=["take.cpp"])
    addresses = maker.calls("lib.so")
    length = maker.extent("lib.so") + (4096 if traced == "-" and not has else 0)
    frames, said = maker.frames(maker.snapshot("lib.so", addresses, traced, length))
    assert said.count("\n") == 1
    assert "is not the file that was traced" in said and reason in said
    assert "its native frames are shown as addresses" in said
    for address in addresses:
        assert [frame[0] for frame in frames[address]] == ["lib.so+0x%x" % address]


ALLOCATORS = """
extern "C" {
volatile int sink;
static inline __attribute__((always_inline)) void PyMem_Malloc() { sink = 1; sink = 2; }
__attribute__((noinline)) void PyObject_Malloc() { sink = 3; sink = 4; }
__attribute__((noinline)) void outer() { PyObject_Malloc(); sink = 5; }
__attribute__((noinline)) void around() { PyMem_Malloc(); sink = 6; }
}
"""


def test_memory_is_of_who_called_the_allocator(maker):
    """By function and by module: else all of it would be PyObject_Malloc's, of one libpython."""
    maker.shop.write("allocators.cpp", ALLOCATORS.encode())
    name = maker.build("liballocators.so", units=["allocators.cpp"])
    start = {words[2]: int(words[0], 16) for words in
             (line.split() for line in maker.do("nm", name).splitlines()) if len(words) == 3}
    path = os.path.join(os.path.realpath(maker.shop.path), name)
    at = {function: "@0x%x" % (BASE + start[function] + 8) for function in
          ("PyObject_Malloc", "outer", "around")}
    traces = ["%(PyObject_Malloc)s;%(outer)s;u.py:1:f", "%(around)s;u.py:1:f",
              "%(PyObject_Malloc)s;u.py:1:f", "%(PyObject_Malloc)s;%(PyObject_Malloc)s"]
    maker.shop.make("a.tms", "".join(
        ["native 0 %s 0x%x 0x%x %s\n" % (path, BASE, BASE + LENGTH, maker.build_id(name))] +
        ["trace 0x%x %d 0 0 - 0 %s\n" % (0x1000 + 256 * i, 1 << i, frames % at)
         for i, frames in enumerate(traces)]))

    def sizes(noun, *options):
        result = maker.shop.run("top", "--json", "--group-by", noun, *options, "a.tms")
        assert result.status == 0, result.err
        return {(os.path.basename(item["file"] or ""), item.get("function")): item["size"]
                for item in json.loads(result.out)["items"]}
    assert sizes("function") == {(name, "outer"): 1, (name, "around"): 2, ("u.py", "f"): 4,
                                 (name, "PyObject_Malloc"): 8}
    assert sizes("function", "--cumulative")[name, "PyObject_Malloc"] == 21
    assert sum(size for (file, _), size in sizes("module").items() if file == name) == 11


def test_musl(maker):
    """Debian's musl is stripped: each exported function has its name, or one of its names."""
    path = need("/lib/ld-musl-x86_64.so.1")
    names = {}
    for line in maker.do(need("readelf"), "-W", "--dyn-syms", path).splitlines():
        words = line.split()
        if len(words) == 8 and words[3] == "FUNC" and words[6] != "UND":
            names.setdefault(int(words[1], 16) + 1, set()).add(words[7])
    assert len(names) > 1000
    frames, said = maker.frames(maker.snapshot(path, sorted(names)))
    assert said.count("\n") == 1 and "stripped, and no debug file was found" in said
    for address, known in names.items():
        assert frames[address][0][0] in known, hex(address)


def test_one_core_and_many_say_the_same(maker):
    """Bytes and order, of what is written and of what is complained about."""
    maker.build("lib.so")
    spec, addresses = [], maker.calls("lib.so")
    for i in range(12):
        path = os.path.join(os.path.realpath(maker.shop.path), "copy%d.so" % i)
        if i % 3 == 0:
            os.link(os.path.join(maker.shop.path, "lib.so"), path)
        elif i % 3 == 1:
            maker.do("strip", "-o", path, "lib.so")
        start = BASE + i * 0x1000000
        spec.append("native 0 %s 0x%x 0x%x %s" % (path, start, start + 0x1000000,
                                                  maker.build_id("lib.so")))
        spec += ["trace 0x%x 100 0 0 - 0 @0x%x;u.py:%d:f" % (0x1000 + 256 * len(spec) + k, start + a,
                                                             k)
                 for k, a in enumerate(addresses)]
    maker.shop.make("many.tms", "\n".join(spec) + "\n")
    command = [ANALYZE, "convert", "--to=collapsed", "-o", "-", "many.tms"]
    said = set()
    for prefix in [[need("taskset"), "-c", str(min(os.sched_getaffinity(0)))], []]:
        for _ in range(3):
            done = subprocess.run(prefix + command, cwd=maker.shop.path, env=maker.env, check=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            said.add((done.stdout, done.stderr))
    assert len(said) == 1
    paths = [line.split(": ")[1] for line in said.pop()[1].decode().splitlines()]
    assert len(paths) == 8 and paths == sorted(paths)


def test_damaged_files_do_no_harm(maker):
    """Bytes of the debug sections and of the rest are turned over; the build-id stays."""
    maker.build("lib.so", units=["take.cpp", "unit0.cpp"])
    whole = bytearray(maker.shop.read("lib.so"))
    identity = bytes.fromhex(maker.build_id("lib.so"))
    kept = whole.index(identity) - 16
    sections = [row.split("]", 1)[1].split() for row in
                maker.do("readelf", "-SW", "lib.so").splitlines()
                if re.match(r"\s+\[\s*\d+\] \.", row)]
    regions = [(int(s[3], 16), int(s[4], 16)) for s in sections
               if s[0].startswith((".debug", ".symtab", ".strtab", ".dynsym", ".shstrtab"))]
    regions.append((0, 0x400))
    regions.append((len(whole) - 64 * (len(sections) + 1), 64 * (len(sections) + 1)))
    snapshot = maker.snapshot("lib.so", maker.calls("lib.so"))
    seed = int(os.environ.get("TM_SYMBOL_SEED", "1"))
    for n in range(seed, seed + ROUNDS):
        rng = random.Random(n)
        bad = bytearray(whole)
        for _ in range(rng.choice([1, 3, 30, 300])):
            start, size = rng.choice(regions)
            at = start + rng.randrange(size)
            if not kept <= at < kept + 16 + len(identity):
                bad[at] = rng.choice([0, 0xff, bad[at] ^ 1 << rng.randrange(8),
                                      rng.randrange(256)])
        os.unlink(os.path.join(maker.shop.path, "lib.so"))
        maker.shop.write("lib.so", bytes(bad))
        result = maker.shop.run("top", snapshot)
        assert result.status == 0, (n, result.status, result.err)
